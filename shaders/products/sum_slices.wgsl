// sum_slices: y = epilogue(Σ_s x_s + bias): the second pass of a product whose inner dimension was computed in slices
// (product_slices.wgsl); cols is a multiple of 4
//   x        [slices, rows, cols]         f32
//   bias     [cols]                       f32
//   operand  [rows / operand_rows, cols]  Elem
//   y        [rows, cols]                 Elem
// One invocation computes four columns of a row. x is read once.
struct Params {
    slices: u32, rows: u32, cols: u32, has_bias: u32,
    act: u32, operand_op: u32, operand_rows: u32, scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<vec4f>;             // [slices, rows, cols]
@group(0) @binding(2) var<storage, read_write> bias: array<vec4f>;          // [cols]
@group(0) @binding(3) var<storage, read_write> operand: array<vec4<Elem>>;  // [rows / operand_rows, cols]
@group(0) @binding(4) var<storage, read_write> y: array<vec4<Elem>>;        // [rows, cols]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let quads = p.cols / 4u;
    let i = linear_group(group, grid) * 64u + lane;
    if i >= p.rows * quads {
        return;
    }
    var sum = vec4f();
    for (var s = 0u; s < p.slices; s++) {
        sum = sum + x[s * p.rows * quads + i];
    }
    store_quad(i / quads, i % quads, sum);
}
