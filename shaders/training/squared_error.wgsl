// squared_error: y[n] = w[n] Σ (out - goal)² / item over an item's first channels
//   out     [N, item / channels, out_channels]  Elem   its first `channels` channels are compared
//   goal    [N, item / channels, channels]      f32
//   w       [N]                                 f32
//   y       [N]                                 f32
// One workgroup computes one item. One pass over memory.
struct Params { item: u32, channels: u32, out_channels: u32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<Elem>;     // [N, item / channels, out_channels]
@group(0) @binding(2) var<storage, read_write> goal: array<f32>;  // [N, item / channels, channels]
@group(0) @binding(3) var<storage, read> w: array<f32>;              // [N]
@group(0) @binding(4) var<storage, read_write> y: array<f32>;        // [N]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let n = group.x;
    let rows = p.item / p.channels;
    var sum = 0.0;
    for (var row = lane; row < rows; row = row + WG) {
        for (var c = 0u; c < p.channels; c = c + 1u) {
            let at = n * rows + row;
            let d = f32(out[at * p.out_channels + c]) - goal[at * p.channels + c];
            sum = sum + d * d;
        }
    }
    let total = workgroup_sum(sum, lane);
    if lane == 0u {
        y[n] = w[n] * total / f32(p.item);
    }
}
