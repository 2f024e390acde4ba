// matmul: y = epilogue(x · w + bias)
//   x        [batches, rows, inner]  Elem
//   w        [batches, inner, cols]  Weight
//   bias     [cols]                  f32
//   operand  [batches rows / operand_rows, cols]  Elem
//   y        [batches, rows, cols]   Elem
// One invocation computes 4 rows x 8 columns in registers, a workgroup a tile as wide as y, up to 64 columns
// (shared/tile.wgsl). Each element of x is read cols / 8 times, each of w rows / 4 times, from the caches.
// The uniform is shared/matmul_params.wgsl.

@group(0) @binding(1) var<storage, read_write> x: array<Elem>;        // [batches, rows, inner]
@group(0) @binding(2) var<storage, read> w: array<Weight>;            // [batches, inner, cols]
@group(0) @binding(3) var<storage, read_write> bias: array<f32>;      // [cols]
@group(0) @binding(4) var<storage, read_write> operand: array<Elem>;  // [batches rows / operand_rows, cols]
@group(0) @binding(5) var<storage, read_write> y: array<Elem>;        // [batches, rows, cols]

var<private> first_w: u32;  // of this product

fn load_x(i: u32) -> vec4<f32> {
    return vec4<f32>(f32(x[i]), f32(x[i + 1u]), f32(x[i + 2u]), f32(x[i + 3u]));
}

fn load_w(k: u32, c: vec4<u32>) -> vec4<f32> {
    let i = vec4<u32>(first_w + k * p.cols) + c;
    return vec4<f32>(f32(w[i.x]), f32(w[i.y]), f32(w[i.z]), f32(w[i.w]));
}

fn store4(batch: u32, row_in: u32, col: u32, sum: vec4<f32>) {
    if row_in >= p.rows {
        return;
    }
    let row = batch * p.rows + row_in;
    store(row, col, sum.x);
    store(row, col + 1u, sum.y);
    store(row, col + 2u, sum.z);
    store(row, col + 3u, sum.w);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let tiles = tile_count(p.rows, p.cols);
    let tile = linear_group(group, grid);
    let batch = tile / tiles;
    let place = tile_place(tile - batch * tiles, lane, p.cols);
    let row = place.x;
    let col = place.y;
    if row >= p.rows || col >= p.cols || batch >= p.batches {
        return;
    }
    first_w = batch * p.inner * p.cols;
    // Rows and columns past the edge read the last ones and are not stored.
    var r = min(vec4<u32>(row) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.rows - 1u));
    r = (r + vec4<u32>(batch * p.rows)) * p.inner;
    let c0 = min(vec4<u32>(col) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.cols - 1u));
    let c1 = min(vec4<u32>(col) + vec4<u32>(4u, 5u, 6u, 7u), vec4<u32>(p.cols - 1u));
    var a0 = vec4<f32>(); var a1 = vec4<f32>(); var a2 = vec4<f32>(); var a3 = vec4<f32>();
    var b0 = vec4<f32>(); var b1 = vec4<f32>(); var b2 = vec4<f32>(); var b3 = vec4<f32>();
    let whole = p.inner & ~3u;
    for (var k = 0u; k < whole; k = k + 4u) {
        let x0 = load_x(r.x + k); let x1 = load_x(r.y + k); let x2 = load_x(r.z + k); let x3 = load_x(r.w + k);
        var u = load_w(k, c0); var v = load_w(k, c1);
        a0 += x0.x * u; a1 += x1.x * u; a2 += x2.x * u; a3 += x3.x * u;
        b0 += x0.x * v; b1 += x1.x * v; b2 += x2.x * v; b3 += x3.x * v;
        u = load_w(k + 1u, c0); v = load_w(k + 1u, c1);
        a0 += x0.y * u; a1 += x1.y * u; a2 += x2.y * u; a3 += x3.y * u;
        b0 += x0.y * v; b1 += x1.y * v; b2 += x2.y * v; b3 += x3.y * v;
        u = load_w(k + 2u, c0); v = load_w(k + 2u, c1);
        a0 += x0.z * u; a1 += x1.z * u; a2 += x2.z * u; a3 += x3.z * u;
        b0 += x0.z * v; b1 += x1.z * v; b2 += x2.z * v; b3 += x3.z * v;
        u = load_w(k + 3u, c0); v = load_w(k + 3u, c1);
        a0 += x0.w * u; a1 += x1.w * u; a2 += x2.w * u; a3 += x3.w * u;
        b0 += x0.w * v; b1 += x1.w * v; b2 += x2.w * v; b3 += x3.w * v;
    }
    for (var k = whole; k < p.inner; k = k + 1u) {
        let u = load_w(k, c0); let v = load_w(k, c1);
        let xs = vec4<f32>(f32(x[r.x + k]), f32(x[r.y + k]), f32(x[r.z + k]), f32(x[r.w + k]));
        a0 += xs.x * u; a1 += xs.y * u; a2 += xs.z * u; a3 += xs.w * u;
        b0 += xs.x * v; b1 += xs.y * v; b2 += xs.z * v; b3 += xs.w * v;
    }
    store4(batch, row, col, a0); store4(batch, row, col + 4u, b0);
    store4(batch, row + 1u, col, a1); store4(batch, row + 1u, col + 4u, b1);
    store4(batch, row + 2u, col, a2); store4(batch, row + 2u, col + 4u, b2);
    store4(batch, row + 3u, col, a3); store4(batch, row + 3u, col + 4u, b3);
}
