// sum_squares: y[first + g] = Σ x[i]², i over part g of x; the rest of y stays
//   x  [len]  f32
//   y  [..]   f32   in place
// One workgroup computes one part. One pass over memory.
struct Params { len: u32, parts: u32, first: u32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;  // [len]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;  // [..]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let length = (p.len + p.parts - 1u) / p.parts;
    let end = min(p.len, (group.x + 1u) * length);
    var sum = 0.0;
    for (var i = group.x * length + lane; i < end; i = i + WG) {
        sum = sum + x[i] * x[i];
    }
    let total = workgroup_sum(sum, lane);
    if lane == 0u {
        y[p.first + group.x] = total;
    }
}
