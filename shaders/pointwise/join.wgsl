// join: y[r, :] = up to four runs of columns, one after another: those of a, b, c and d from their first ones on
//   a, b, c, d  [rows, cols_a], [rows, cols_b], …  Item
//   y           [rows, cols]                       Item
// A run that is not there begins at y's end. Item is Elem, or f32 for tensors that stay so. One workgroup computes WG
// elements. One pass over memory.
struct Params {
    len: u32, cols: u32,
    cols_a: u32, first_a: u32,
    cols_b: u32, first_b: u32, start_b: u32,
    cols_c: u32, first_c: u32, start_c: u32,
    cols_d: u32, first_d: u32, start_d: u32,
}

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> a: array<Item>;  // [rows, cols_a]
@group(0) @binding(2) var<storage, read_write> b: array<Item>;  // [rows, cols_b]
@group(0) @binding(3) var<storage, read_write> c: array<Item>;  // [rows, cols_c]
@group(0) @binding(4) var<storage, read_write> d: array<Item>;  // [rows, cols_d]
@group(0) @binding(5) var<storage, read_write> y: array<Item>;  // [rows, cols]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * WG + lane;
    if i >= p.len {
        return;
    }
    let row = i / p.cols;
    let col = i - row * p.cols;
    if col < p.start_b {
        y[i] = a[row * p.cols_a + p.first_a + col];
    } else if col < p.start_c {
        y[i] = b[row * p.cols_b + p.first_b + col - p.start_b];
    } else if col < p.start_d {
        y[i] = c[row * p.cols_c + p.first_c + col - p.start_c];
    } else {
        y[i] = d[row * p.cols_d + p.first_d + col - p.start_d];
    }
}
