// elementwise_quads: y = (activate(x) ∘ operand) * scale, as elementwise.wgsl, four columns at a time;
// cols a multiple of 4
//   x, y     [rows, cols]                 Elem
//   operand  [rows / operand_rows, cols]  Elem: each of its rows serves operand_rows rows of x
// One workgroup computes WG quads. One pass over memory.
struct Params { len: u32, cols: u32, act: u32, operand_op: u32, operand_rows: u32, scale: f32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<vec4<Elem>>;        // [rows, cols]
@group(0) @binding(2) var<storage, read_write> operand: array<vec4<Elem>>;  // [rows / operand_rows, cols]
@group(0) @binding(3) var<storage, read_write> y: array<vec4<Elem>>;        // [rows, cols]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * WG + lane;
    if i >= p.len / 4u {
        return;
    }
    store_quad_at(i, vec4f(x[i]));
}
