// conv2d_tile: y = epilogue(conv([a | b], w) + bias), as conv2d.wgsl, through workgroup memory; in_a, in_b and cols
// multiples of 4
//   a        [N', H, W, in_a]  Elem   the first channels of the input; picture n of y reads picture n % N'
//   b        [N', H, W, in_b]  Elem   the rest (a U-Net's skip connection); in_b may be 0
//   w        [kh, kw, in_a + in_b, cols]  Weight
//   bias     [cols]            f32
//   operand  [rows / operand_rows, cols]  Elem
//   y        [N, OH, OW, cols] Elem
// The input may be read as if enlarged `up` times by nearest neighbour; padding reads zero.
// One workgroup computes 64 pixels x 64 channels (shared/tile64.wgsl), or 128 x 64 in cooperative matrices
// (shared/cooperative.wgsl), each slab gathered from the input as it lies (shared/gather.wgsl).
// The uniform is shared/conv2d_params.wgsl.

@group(0) @binding(1) var<storage, read_write> a: array<vec4<Elem>>;        // [N', H, W, in_a]
@group(0) @binding(2) var<storage, read_write> b: array<vec4<Elem>>;        // [N', H, W, in_b]
@group(0) @binding(3) var<storage, read> w: array<vec4<Weight>>;            // [kh, kw, in_a + in_b, cols]
@group(0) @binding(4) var<storage, read_write> bias: array<vec4f>;          // [cols]
@group(0) @binding(5) var<storage, read_write> operand: array<vec4<Elem>>;  // [rows / operand_rows, cols]
@group(0) @binding(6) var<storage, read_write> y: array<vec4<Elem>>;        // [N, OH, OW, cols]

var<private> row: u32;                         // first of this workgroup's tile
var<private> column: u32;                      // its first quad of columns
var<private> pixels: array<vec3<u32>, PARTS>;  // first taps of the pixels that this invocation stages

fn place(group: u32) -> vec2<u32> {
    let across = (p.cols + 63u) / 64u;
    row = group / across * TALL;
    column = group % across * 16u;
    return vec2<u32>(0u, select(inner(), 0u, group / across * TALL >= p.rows));
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
        store_quad(row + at, column + quad, sum);
    }
}
