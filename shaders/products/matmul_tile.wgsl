// matmul_tile: y = epilogue(x · w + bias), as matmul.wgsl, through workgroup memory; inner and cols multiples of 4
//   x        [batches, rows, inner]  Elem
//   w        [batches, inner, cols]  Weight
//   bias     [cols]                  f32
//   operand  [batches rows / operand_rows, cols]  Elem
//   y        [batches, rows, cols]   Elem
// One workgroup computes 64 rows x 64 columns (shared/tile64.wgsl), or 128 x 64 in cooperative matrices
// (shared/cooperative.wgsl).
// The uniform is shared/matmul_params.wgsl.

@group(0) @binding(1) var<storage, read_write> x: array<vec4<Elem>>;        // [batches, rows, inner]
@group(0) @binding(2) var<storage, read> w: array<vec4<Weight>>;            // [batches, inner, cols]
@group(0) @binding(3) var<storage, read_write> bias: array<vec4f>;          // [cols]
@group(0) @binding(4) var<storage, read_write> operand: array<vec4<Elem>>;  // [batches rows / operand_rows, cols]
@group(0) @binding(5) var<storage, read_write> y: array<vec4<Elem>>;        // [batches, rows, cols]

var<private> batch: u32;
var<private> row: u32;                      // first of this workgroup's tile
var<private> column: u32;                   // its first quad of columns
var<private> left_rows: array<u32, PARTS>;  // first quads of the rows of x that this invocation stages
var<private> left_at: u32;                  // the quad of each that is next

fn place(group: u32) -> vec2<u32> {
    let across = (p.cols + 63u) / 64u;
    let tiles = across * ((p.rows + TALL - 1u) / TALL);
    let idle = group / tiles >= p.batches;
    batch = min(group / tiles, p.batches - 1u);
    row = select(group % tiles / across * TALL, p.rows, idle);
    column = group % tiles % across * 16u;
    return vec2<u32>(0u, select(p.inner, 0u, idle));
}

// Rows and columns past the edge read the last ones and are not stored.
fn take_row(part: u32, at: u32) {
    left_rows[part] = (batch * p.rows + min(row + at, p.rows - 1u)) * (p.inner / 4u);
}

fn begin(quad: u32) {
    left_at = quad;
}

fn advance() {
    left_at = left_at + 4u;
}

fn left_quad(part: u32) -> vec4<Elem> {
    if left_at >= p.inner / 4u {
        return vec4<Elem>();
    }
    return x[left_rows[part] + left_at];
}

fn right_quad(k: u32, quad: u32) -> vec4<Weight> {
    let quads = p.cols / 4u;
    return w[(batch * p.inner + min(k, p.inner - 1u)) * quads + min(column + quad, quads - 1u)];
}

fn store_at(at: u32, quad: u32, sum: vec4f) {
    if row + at < p.rows && column + quad < p.cols / 4u {
        store_quad(batch * p.rows + row + at, column + quad, sum);
    }
}
