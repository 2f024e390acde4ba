// softmax: y = e^(x - max) / Σ e^(x - max) per row; logarithm: y = x - max - ln Σ e^(x - max)
//   x, y  [rows, C]  Elem
// One workgroup computes one row. Three passes over the row.
struct Params { rows: u32, channels: u32, logarithm: u32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<Elem>;  // [rows, C]
@group(0) @binding(2) var<storage, read_write> y: array<Elem>;  // [rows, C]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let row = linear_group(group, grid);
    // The same for the whole workgroup; it still takes part in the barriers.
    let start = min(row, p.rows - 1u) * p.channels;
    var top = f32(x[start]);
    for (var c = lane; c < p.channels; c = c + WG) {
        top = max(top, f32(x[start + c]));
    }
    top = workgroup_max(top, lane);
    var sum = 0.0;
    for (var c = lane; c < p.channels; c = c + WG) {
        sum = sum + exp(f32(x[start + c]) - top);
    }
    sum = workgroup_sum(sum, lane);
    if row >= p.rows {
        return;
    }
    for (var c = lane; c < p.channels; c = c + WG) {
        let v = f32(x[start + c]);
        if p.logarithm != 0u {
            y[start + c] = Elem(v - top - log(sum));
        } else {
            y[start + c] = Elem(exp(v - top) / sum);
        }
    }
}
