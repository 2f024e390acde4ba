// timestep_embedding: y[n] = [cos(t_n f) | sin(t_n f)], or [sin | cos], zero-padded to an odd width
//   t     [N]             f32
//   freq  [half]          f32   max_period^(-i / (half - shift)), rounded to f32 as PyTorch has it
//   y     [N, channels]   Elem
// One workgroup computes WG elements. One pass over memory.
struct Params { len: u32, channels: u32, half_channels: u32, cos_first: u32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> t: array<f32>;     // [N]
@group(0) @binding(2) var<storage, read_write> freq: array<f32>;  // [half]
@group(0) @binding(3) var<storage, read_write> y: array<Elem>;    // [N, channels]

// x modulo 2π in three parts, so that angles of a thousand radians keep their digits: WGSL promises nothing about
// sin and cos beyond [-π, π].
fn wrap(x: f32) -> f32 {
    let turns = round(x * 0.15915494309189535);
    return ((x - turns * 6.28125) - turns * 1.9350051879882812e-3) - turns * 3.0199159819100000e-7;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * WG + lane;
    if i >= p.len {
        return;
    }
    let n = i / p.channels;
    let c = i - n * p.channels;
    if c >= 2u * p.half_channels {
        y[i] = Elem(0.0);
        return;
    }
    let angle = wrap(t[n] * freq[c % p.half_channels]);
    if (c < p.half_channels) == (p.cos_first != 0u) {
        y[i] = Elem(cos(angle));
    } else {
        y[i] = Elem(sin(angle));
    }
}
