// conv2d_tile: y = epilogue(conv([a | b], w) + bias), as conv2d.wgsl, through workgroup memory; in_a, in_b and cols
// multiples of 4
//   a        [N', H, W, in_a]  Elem   the first channels of the input; picture n of y reads picture n % N'
//   b        [N', H, W, in_b]  Elem   the rest (a U-Net's skip connection); in_b may be 0
//   w        [kh, kw, in_a + in_b, cols]  Weight
//   bias     [cols]            f32
//   operand  [rows / operand_rows, cols]  Elem
//   y        [N, OH, OW, cols] Elem
// The input may be read as if enlarged `up` times by nearest neighbour; padding reads zero.
// One workgroup computes 64 pixels x 64 channels (shared/tile64.wgsl), each slab gathered from the input as it lies
// (shared/gather.wgsl).
struct Params {
    height: u32, width: u32, in_a: u32, in_b: u32,
    out_height: u32, out_width: u32, cols: u32, rows: u32,
    kernel_height: u32, kernel_width: u32, stride: u32, up: u32,
    pad_top: u32, pad_left: u32, pictures: u32, has_bias: u32,
    act: u32, operand_op: u32, operand_rows: u32, scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> a: array<vec4<Elem>>;        // [N', H, W, in_a]
@group(0) @binding(2) var<storage, read_write> b: array<vec4<Elem>>;        // [N', H, W, in_b]
@group(0) @binding(3) var<storage, read> w: array<vec4<Weight>>;            // [kh, kw, in_a + in_b, cols]
@group(0) @binding(4) var<storage, read_write> bias: array<vec4f>;          // [cols]
@group(0) @binding(5) var<storage, read_write> operand: array<vec4<Elem>>;  // [rows / operand_rows, cols]
@group(0) @binding(6) var<storage, read_write> y: array<vec4<Elem>>;        // [N, OH, OW, cols]

var<private> pixels: array<vec3<u32>, 2>;  // first taps of the two pixels that this invocation stages
var<private> column: u32;                  // first quad of this workgroup's columns
var<private> inner: u32;                   // taps x channels

// Pixels and columns past the edge read the last ones and are not stored.
fn left_quad(part: u32, quad: u32) -> vec4f {
    return vec4f(gather(pixels[part], quad));
}

fn right_quad(k: u32, quad: u32) -> vec4f {
    let quads = p.cols / 4u;
    return vec4f(w[min(k, inner - 1u) * quads + min(column + quad, quads - 1u)]);
}

fn store_sums(lane: u32, row: u32) {
    for (var i = 0u; i < 4u; i++) {
        if row + i * 8u < p.rows {
            store_quad(row + i * 8u, column + lane % 16u, slab[lane + i * 128u]);
        }
    }
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let across = (p.cols + 63u) / 64u;
    let tile = linear_group(group, grid);
    let row = tile / across * 64u;
    if row >= p.rows {
        return;
    }
    column = tile % across * 16u;
    inner = p.kernel_height * p.kernel_width * (p.in_a + p.in_b);
    pixels[0] = first_tap(min(row + lane / 4u, p.rows - 1u));
    pixels[1] = first_tap(min(row + lane / 4u + 32u, p.rows - 1u));
    multiply(lane, 0u, inner);
    put_sums(lane, sums[0], sums[1], sums[2], sums[3]);
    store_sums(lane, row + lane / 16u);
    put_sums(lane, sums[4], sums[5], sums[6], sums[7]);
    store_sums(lane, row + lane / 16u + 32u);
}
