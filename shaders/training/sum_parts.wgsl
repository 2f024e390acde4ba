// sum_parts: y[i] = Σ_s x[s, i]
//   x  [parts, len]  f32
//   y  [len]         f32
// One invocation computes one element. x is read once.
struct Params { parts: u32, len: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;  // [parts, len]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;  // [len]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * 64u + lane;
    if i >= p.len {
        return;
    }
    var sum = 0.0;
    for (var s = 0u; s < p.parts; s = s + 1u) {
        sum = sum + x[s * p.len + i];
    }
    y[i] = sum;
}
