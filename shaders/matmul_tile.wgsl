// matmul_tile: y = epilogue(x · w + bias), as matmul.wgsl, through workgroup memory; inner and cols multiples of 4
//   x        [batches, rows, inner]  Elem
//   w        [batches, inner, cols]  Weight
//   bias     [cols]                  f32
//   operand  [batches rows / operand_rows, cols]  Elem
//   y        [batches, rows, cols]   Elem
// One workgroup computes 64 rows x 64 columns (shared/tile64.wgsl).
struct Params {
    batches: u32, rows: u32, inner: u32, cols: u32, has_bias: u32,
    act: u32, operand_op: u32, operand_rows: u32, scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<vec4<Elem>>;        // [batches, rows, inner]
@group(0) @binding(2) var<storage, read> w: array<vec4<Weight>>;            // [batches, inner, cols]
@group(0) @binding(3) var<storage, read_write> bias: array<vec4f>;          // [cols]
@group(0) @binding(4) var<storage, read_write> operand: array<vec4<Elem>>;  // [batches rows / operand_rows, cols]
@group(0) @binding(5) var<storage, read_write> y: array<vec4<Elem>>;        // [batches, rows, cols]

var<private> left_rows: vec2<u32>;  // first quads of the two rows of x that this invocation stages
var<private> first_w: u32;          // first row of this product's w
var<private> column: u32;           // first quad of this workgroup's columns

// Rows and columns past the edge read the last ones and are not stored.
fn left_quad(part: u32, quad: u32) -> vec4f {
    if quad >= p.inner / 4u {
        return vec4f();
    }
    return vec4f(x[left_rows[part] + quad]);
}

fn right_quad(k: u32, quad: u32) -> vec4f {
    let last = p.cols / 4u - 1u;
    return vec4f(w[(first_w + min(k, p.inner - 1u)) * (p.cols / 4u) + min(column + quad, last)]);
}

fn store_sums(lane: u32, batch: u32, row: u32) {
    for (var i = 0u; i < 4u; i++) {
        if row + i * 8u < p.rows {
            store_quad(batch * p.rows + row + i * 8u, column + lane % 16u, slab[lane + i * 128u]);
        }
    }
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let across = (p.cols + 63u) / 64u;
    let tiles = across * ((p.rows + 63u) / 64u);
    let tile = linear_group(group, grid);
    let batch = tile / tiles;
    if batch >= p.batches {
        return;
    }
    let row = (tile - batch * tiles) / across * 64u;
    column = (tile - batch * tiles) % across * 16u;
    first_w = batch * p.inner;
    let rows = min(vec2<u32>(row + lane / 4u, row + lane / 4u + 32u), vec2<u32>(p.rows - 1u));
    left_rows = (vec2<u32>(batch * p.rows) + rows) * (p.inner / 4u);
    multiply(lane, 0u, p.inner);
    put_sums(lane, sums[0], sums[1], sums[2], sums[3]);
    store_sums(lane, batch, row + lane / 16u);
    put_sums(lane, sums[4], sums[5], sums[6], sums[7]);
    store_sums(lane, batch, row + lane / 16u + 32u);
}
