// accumulate: y += x, in place
//   x, y  [len]  f32
// One invocation computes one element. One pass over memory.
struct Params { len: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;  // [len]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;  // [len]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * 64u + lane;
    if i < p.len {
        y[i] = y[i] + x[i];
    }
}
