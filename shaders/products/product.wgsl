// product: y = scale x · z, of two computed tensors
//   x  [batches, rows, inner]  Elem
//   z  [batches, inner, cols]  Elem
//   y  [batches, rows, cols]   Elem
// One invocation computes 4 rows x 8 columns in registers, a workgroup a tile as wide as y, up to 64 columns
// (shared/tile.wgsl). Each element of x is read cols / 8 times, each of z rows / 4 times, from the caches.
struct Params { batches: u32, rows: u32, inner: u32, cols: u32, scale: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<Elem>;  // [batches, rows, inner]
@group(0) @binding(2) var<storage, read_write> z: array<Elem>;  // [batches, inner, cols]
@group(0) @binding(3) var<storage, read_write> y: array<Elem>;  // [batches, rows, cols]

fn load_z(first: u32, c: vec4<u32>) -> vec4<f32> {
    let i = vec4<u32>(first) + c;
    return vec4<f32>(f32(z[i.x]), f32(z[i.y]), f32(z[i.z]), f32(z[i.w]));
}

fn store4(batch: u32, row: u32, col: u32, sum: vec4<f32>) {
    if row >= p.rows {
        return;
    }
    let first = (batch * p.rows + row) * p.cols;
    for (var i = 0u; i < min(4u, p.cols - min(col, p.cols)); i = i + 1u) {
        y[first + col + i] = Elem(sum[i] * p.scale);
    }
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
    // Rows and columns past the edge read the last ones and are not stored.
    var r = min(vec4<u32>(row) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.rows - 1u));
    r = (r + vec4<u32>(batch * p.rows)) * p.inner;
    let c0 = min(vec4<u32>(col) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.cols - 1u));
    let c1 = min(vec4<u32>(col) + vec4<u32>(4u, 5u, 6u, 7u), vec4<u32>(p.cols - 1u));
    var a0 = vec4<f32>(); var a1 = vec4<f32>(); var a2 = vec4<f32>(); var a3 = vec4<f32>();
    var b0 = vec4<f32>(); var b1 = vec4<f32>(); var b2 = vec4<f32>(); var b3 = vec4<f32>();
    var first = batch * p.inner * p.cols;
    for (var k = 0u; k < p.inner; k = k + 1u) {
        let u = load_z(first, c0);
        let v = load_z(first, c1);
        let xs = vec4<f32>(f32(x[r.x + k]), f32(x[r.y + k]), f32(x[r.z + k]), f32(x[r.w + k]));
        a0 += xs.x * u; a1 += xs.y * u; a2 += xs.z * u; a3 += xs.w * u;
        b0 += xs.x * v; b1 += xs.y * v; b2 += xs.z * v; b3 += xs.w * v;
        first = first + p.cols;
    }
    store4(batch, row, col, a0); store4(batch, row, col + 4u, b0);
    store4(batch, row + 1u, col, a1); store4(batch, row + 1u, col + 4u, b1);
    store4(batch, row + 2u, col, a2); store4(batch, row + 2u, col + 4u, b2);
    store4(batch, row + 3u, col, a3); store4(batch, row + 3u, col + 4u, b3);
}
