// transpose: y[b, c, r] = x[b, r, c]
//   x  [batch, rows, cols]  Elem
//   y  [batch, cols, rows]  Elem
// One workgroup takes a tile of 8 by 8: what it reads and what it writes are whole runs of 8. One pass over memory.
struct Params { batch: u32, rows: u32, cols: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<Elem>;  // [batch, rows, cols]
@group(0) @binding(2) var<storage, read_write> y: array<Elem>;  // [batch, cols, rows]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let down = (p.rows + 7u) / 8u;
    let across = (p.cols + 7u) / 8u;
    let tile = linear_group(group, grid);
    let b = tile / (down * across);
    let within = tile - b * (down * across);
    let row = within % down * 8u + lane % 8u;
    let col = within / down * 8u + lane / 8u;
    if b < p.batch && row < p.rows && col < p.cols {
        y[(b * p.cols + col) * p.rows + row] = x[(b * p.rows + row) * p.cols + col];
    }
}
