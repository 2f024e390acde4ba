// conv2d_gradient_params: the uniform of a convolution's gradient, bound first
struct Params {
    height: u32, width: u32, cols: u32, out_height: u32, out_width: u32, inner: u32, pictures: u32,
    kernel_height: u32, kernel_width: u32, stride: u32, pad_top: u32, pad_left: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
