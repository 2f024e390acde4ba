// matmul_params: the uniform of matrix products, bound first
struct Params {
    batches: u32, rows: u32, inner: u32, cols: u32, has_bias: u32,
    act: u32, operand_op: u32, operand_rows: u32, scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
