// reciprocal: y = 1 / max(x, least)
//   x  [len]  Elem
//   y  [len]  f32   f16 would not hold what becomes of small x
// One workgroup computes WG elements. One pass over memory.
struct Params { len: u32, least: f32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<Elem>;  // [len]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // [len]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * WG + lane;
    if i >= p.len {
        return;
    }
    y[i] = 1.0 / max(f32(x[i]), p.least);
}
