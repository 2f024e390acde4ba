// gather: the input [a | b] of a convolution as the left side of a product: a row is an output pixel, the inner
// dimension taps x channels. Needs the file's a and b as quads: in_a and in_b are multiples of 4.

// Elements of the inner dimension.
fn inner() -> u32 {
    return p.kernel_height * p.kernel_width * (p.in_a + p.in_b);
}

// Where output pixel `row` reads its first tap: row and column of the enlarged input (wrapped below zero in the
// padding), picture.
fn first_tap(row: u32) -> vec3<u32> {
    let image = row / (p.out_height * p.out_width);
    let at = row - image * (p.out_height * p.out_width);
    let oy = at / p.out_width;
    return vec3<u32>(
        oy * p.stride - p.pad_top, (at - oy * p.out_width) * p.stride - p.pad_left, image % p.pictures);
}

// Quad `quad` of the inner dimension of the pixel that first_tap gave; zero in the padding and past the last tap.
fn gather(at: vec3<u32>, quad: u32) -> vec4<Elem> {
    let quads_a = p.in_a / 4u;
    let quads_b = p.in_b / 4u;
    let tap = quad / (quads_a + quads_b);
    let c = quad - tap * (quads_a + quads_b);
    let ky = tap / p.kernel_width;
    // Unsigned: a coordinate above the top or left edge wraps far past the bottom or right one.
    let iy = at.x + ky;
    let ix = at.y + tap - ky * p.kernel_width;
    if ky >= p.kernel_height || iy >= p.height * p.up || ix >= p.width * p.up {
        return vec4<Elem>();
    }
    let pixel = (at.z * p.height + iy / p.up) * p.width + ix / p.up;
    if c < quads_a {
        return a[pixel * quads_a + c];
    }
    return b[pixel * quads_b + c - quads_a];
}
