// weight_transpose: y[t, c, r] = x[t, r, c], or of x's matrices in the other order: a weight for the pass back
//   x  [batch, rows, cols]  Weight
//   y  [batch, cols, rows]  Weight
// One workgroup moves 16 by 16 elements through workgroup memory.
struct Params { batch: u32, rows: u32, cols: u32, reversed: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<Weight>;  // [batch, rows, cols]
@group(0) @binding(2) var<storage, read_write> y: array<Weight>;  // [batch, cols, rows]

var<workgroup> tile: array<f32, 272>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let down = (p.rows + 15u) / 16u;
    let across = (p.cols + 15u) / 16u;
    let index = linear_group(group, grid);
    let t = index / (down * across);
    let row = index / across % down * 16u;
    let col = index % across * 16u;
    let start = select(t, p.batch - 1u - t, p.reversed != 0u) * p.rows * p.cols;
    let i = lane / 16u;
    let j = lane % 16u;
    if t < p.batch && row + i < p.rows && col + j < p.cols {
        tile[i * 17u + j] = f32(x[start + (row + i) * p.cols + col + j]);
    }
    workgroupBarrier();
    if t < p.batch && col + i < p.cols && row + j < p.rows {
        y[t * p.rows * p.cols + (col + i) * p.rows + row + j] = Weight(tile[j * 17u + i]);
    }
}
