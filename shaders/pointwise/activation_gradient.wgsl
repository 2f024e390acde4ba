// activation_gradient: y = epilogue(dy * activate'(x)), activate' the derivative of an activation function
//   x, dy, y  [rows, cols]                 Elem
//   operand   [rows / operand_rows, cols]  Elem
// One workgroup computes WG elements. One pass over memory.
struct Params {
    len: u32, cols: u32, activation: u32,
    act: u32, operand_op: u32, operand_rows: u32, scale: f32,
}

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<Elem>;        // [rows, cols]
@group(0) @binding(2) var<storage, read_write> dy: array<Elem>;       // [rows, cols]
@group(0) @binding(3) var<storage, read_write> operand: array<Elem>;  // [rows / operand_rows, cols]
@group(0) @binding(4) var<storage, read_write> y: array<Elem>;        // [rows, cols]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * WG + lane;
    if i >= p.len {
        return;
    }
    store_at(i, p.cols, f32(dy[i]) * activation_derivative(f32(x[i]), p.activation));
}
