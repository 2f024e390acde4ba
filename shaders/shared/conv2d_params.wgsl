// conv2d_params: the uniform of convolutions, bound first
struct Params {
    height: u32, width: u32, in_a: u32, in_b: u32,
    out_height: u32, out_width: u32, cols: u32, rows: u32,
    kernel_height: u32, kernel_width: u32, stride: u32, up: u32,
    pad_top: u32, pad_left: u32, pictures: u32, has_bias: u32, direct: u32,
    act: u32, operand_op: u32, operand_rows: u32, scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
