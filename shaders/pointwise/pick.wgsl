// pick: y[r] = x[r, index[r]]; or, scattered, y[r, c] = x[r] where c = index[r], else 0
//   x      [rows, cols], scattered [rows]  Elem
//   index  [rows]                          f32   whole numbers below 2^24; those past the last column are the last
//   y      [rows], scattered [rows, cols]  Elem
// One workgroup computes WG elements. One pass over memory.
struct Params { len: u32, cols: u32, scattered: u32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<Elem>;     // [rows, cols] or [rows]
@group(0) @binding(2) var<storage, read_write> index: array<f32>;  // [rows]
@group(0) @binding(3) var<storage, read_write> y: array<Elem>;     // [rows] or [rows, cols]

fn column(row: u32) -> u32 {
    return min(u32(index[row]), p.cols - 1u);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * WG + lane;
    if i >= p.len {
        return;
    }
    if p.scattered == 0u {
        y[i] = x[i * p.cols + column(i)];
    } else {
        let row = i / p.cols;
        y[i] = Elem(select(0.0, f32(x[row]), i - row * p.cols == column(row)));
    }
}
