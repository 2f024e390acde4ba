// renoise: the sample at another place of the chain, or with a known picture in it (RePaint, Lugmayr et al. 2022)
//   x <- m (signal k + noise z) + (1 - m) (of_x x + of_z z)
//   known   [B, HW, C + 1] f32   a picture k and, as one more channel, how much of it is kept
//   z       [B, HW, C]     f32   standard normal
//   numbers [8]            f32   of_x, of_z, signal, noise, and what m is of the share: 1, or 0 where no picture is
//                                put in
//   x       [B, HW, C]     f32   updated in place
// One workgroup computes WG elements. One pass over memory.
struct Params { len: u32, channels: u32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> known: array<f32>;   // [B, HW, C + 1]
@group(0) @binding(2) var<storage, read_write> z: array<f32>;       // [B, HW, C]
@group(0) @binding(3) var<storage, read_write> numbers: array<f32>; // [8]
@group(0) @binding(4) var<storage, read_write> x: array<f32>;       // [B, HW, C]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * WG + lane;
    if i >= p.len {
        return;
    }
    let pixel = i / p.channels * (p.channels + 1u);
    let m = numbers[4] * known[pixel + p.channels];
    let moved = numbers[0] * x[i] + numbers[1] * z[i];
    if m > 0.0 {
        x[i] = m * (numbers[2] * known[pixel + i % p.channels] + numbers[3] * z[i]) + (1.0 - m) * moved;
    } else {
        x[i] = moved;
    }
}
