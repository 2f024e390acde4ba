// product_slices: y_s = conv([a | b], w) over slice s of the inner dimension (taps x channels): the first pass of a
// deep, small convolution or product, whose tiles alone would leave most of a GPU idle; sum_slices is the second.
// in_a, in_b and cols are multiples of 4. A product of matrices is a 1 x 1 convolution of one row of pixels.
//   a        [N', H, W, in_a]  Elem   the first channels of the input; picture n of y reads picture n % N'
//   b        [N', H, W, in_b]  Elem   the rest; in_b may be 0
//   w        [kh, kw, in_a + in_b, cols]  Weight
//   y        [slices, rows, cols]     f32
// One workgroup computes 64 pixels x 64 channels of a slice (shared/tile64.wgsl), or 128 x 64 in cooperative matrices
// (shared/cooperative.wgsl).
struct Params {
    height: u32, width: u32, in_a: u32, in_b: u32,
    out_height: u32, out_width: u32, cols: u32, rows: u32,
    kernel_height: u32, kernel_width: u32, stride: u32, up: u32,
    pad_top: u32, pad_left: u32, pictures: u32, slices: u32, depth: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> a: array<vec4<Elem>>;  // [N', H, W, in_a]
@group(0) @binding(2) var<storage, read_write> b: array<vec4<Elem>>;  // [N', H, W, in_b]
@group(0) @binding(3) var<storage, read> w: array<vec4<Weight>>;      // [kh, kw, in_a + in_b, cols]
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;       // [slices, rows, cols]

var<private> slice: u32;
var<private> row: u32;                         // first of this workgroup's tile
var<private> column: u32;                      // its first quad of columns
var<private> pixels: array<vec3<u32>, PARTS>;  // first taps of the pixels that this invocation stages

fn place(group: u32) -> vec2<u32> {
    let across = (p.cols + 63u) / 64u;
    let tiles = across * ((p.rows + TALL - 1u) / TALL);
    let idle = group / tiles >= p.slices;
    slice = group / tiles;
    row = select(group % tiles / across * TALL, p.rows, idle);
    column = group % tiles % across * 16u;
    let first = group / tiles * p.depth;
    return vec2<u32>(first, select(min(first + p.depth, inner()), first, idle));
}

// Pixels and columns past the edge read the last ones and are not stored.
fn take_row(part: u32, at: u32) {
    pixels[part] = first_tap(min(row + at, p.rows - 1u));
}

fn left_quad(part: u32) -> vec4<Elem> {
    return gather(pixels[part]);
}

fn right_quad(k: u32, quad: u32) -> vec4<Weight> {
    let quads = p.cols / 4u;
    return w[min(k, inner() - 1u) * quads + min(column + quad, quads - 1u)];
}

fn store_at(at: u32, quad: u32, sum: vec4f) {
    if row + at < p.rows && column + quad < p.cols / 4u {
        y[(slice * p.rows + row + at) * (p.cols / 4u) + column + quad] = sum;
    }
}
