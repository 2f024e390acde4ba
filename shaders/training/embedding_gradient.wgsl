// embedding_gradient: y[e, c] = Σ_i dy[i, c] over the i with ids[i] = e: the gradient of embedding.wgsl at its table
//   ids  [count]       f32   whole numbers; those beyond the last row are the last
//   dy   [count, C]    Elem
//   y    [entries, C]  f32
// One invocation computes one element of y, and reads all ids.
struct Params { len: u32, channels: u32, entries: u32, count: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> ids: array<f32>;        // [count]
@group(0) @binding(2) var<storage, read_write> dy: array<Elem>;  // [count, C]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;    // [entries, C]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * 64u + lane;
    if i >= p.len {
        return;
    }
    let entry = i / p.channels;
    let c = i % p.channels;
    var sum = 0.0;
    for (var at = 0u; at < p.count; at = at + 1u) {
        if min(u32(ids[at]), p.entries - 1u) == entry {
            sum = sum + f32(dy[at * p.channels + c]);
        }
    }
    y[i] = sum;
}
