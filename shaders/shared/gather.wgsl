// gather: the input [a | b] of a convolution as the left side of a product: a row is an output pixel, the inner
// dimension taps x channels. Needs the file's a and b as quads: in_a and in_b are multiples of 4; up is a power of 2.

// The quad of the inner dimension that is gathered: row and column of its tap, and which quad of that tap's channels.
var<private> tap: vec2<u32>;
var<private> channels: u32;

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

// Gathers from this quad of the inner dimension on.
fn begin(quad: u32) {
    let quads = (p.in_a + p.in_b) / 4u;
    let at = quad / quads;
    channels = quad - at * quads;
    tap = vec2<u32>(at / p.kernel_width, at % p.kernel_width);
}

// Four quads further.
fn advance() {
    let quads = (p.in_a + p.in_b) / 4u;
    channels = channels + 4u;
    while channels >= quads {
        channels = channels - quads;
        tap.y = tap.y + 1u;
        if tap.y == p.kernel_width {
            tap = vec2<u32>(tap.x + 1u, 0u);
        }
    }
}

// That quad of the pixel that first_tap gave; zero in the padding and past the last tap.
fn gather(at: vec3<u32>) -> vec4<Elem> {
    // Unsigned: a coordinate above the top or left edge wraps far past the bottom or right one.
    let iy = at.x + tap.x;
    let ix = at.y + tap.y;
    if tap.x >= p.kernel_height || iy >= p.height * p.up || ix >= p.width * p.up {
        return vec4<Elem>();
    }
    let by = firstTrailingBit(p.up);
    let pixel = (at.z * p.height + (iy >> by)) * p.width + (ix >> by);
    let quads_a = p.in_a / 4u;
    if channels < quads_a {
        return a[pixel * quads_a + channels];
    }
    return b[pixel * (p.in_b / 4u) + channels - quads_a];
}
