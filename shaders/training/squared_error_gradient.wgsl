// squared_error_gradient: dout = 2 dy[n] w[n] (out - goal) / item, 0 for the channels that are not compared
//   out, dout  [N, item / channels, out_channels]  Elem   the first `channels` channels are compared
//   goal       [N, item / channels, channels]      f32
//   w, dy      [N]                                 f32
// One invocation computes one element. One pass over memory.
struct Params { len: u32, item: u32, channels: u32, out_channels: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<Elem>;     // [N, item / channels, out_channels]
@group(0) @binding(2) var<storage, read_write> goal: array<f32>;  // [N, item / channels, channels]
@group(0) @binding(3) var<storage, read> w: array<f32>;              // [N]
@group(0) @binding(4) var<storage, read_write> dy: array<f32>;       // [N]
@group(0) @binding(5) var<storage, read_write> dout: array<Elem>;    // [N, item / channels, out_channels]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * 64u + lane;
    if i >= p.len {
        return;
    }
    let row = i / p.out_channels;
    let c = i - row * p.out_channels;
    let n = row / (p.item / p.channels);
    var d = 0.0;
    if c < p.channels {
        d = 2.0 * dy[n] * w[n] / f32(p.item) * (f32(out[i]) - goal[row * p.channels + c]);
    }
    dout[i] = Elem(d);
}
