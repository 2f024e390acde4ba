// layer_norm_gradient: y = epilogue(dx), the gradient of layer_norm.wgsl at x, per row:
//   dx = rstd (g - mean(g) - n mean(g n)),  g = dy weight,  n = (x - mean) rstd;  for RMS without mean and mean(g)
//   x, dy, y  [rows, C]                 Elem
//   weight    [C]                       f32
//   operand   [rows / operand_rows, C]  Elem
// One workgroup computes one row. Three passes over the row: mean, sums, output.
struct Params {
    rows: u32, channels: u32, rms: u32, eps: f32,
    act: u32, operand_op: u32, operand_rows: u32, scale: f32,
}

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<Elem>;        // [rows, C]
@group(0) @binding(2) var<storage, read> weight: array<f32>;          // [C]
@group(0) @binding(3) var<storage, read_write> dy: array<Elem>;       // [rows, C]
@group(0) @binding(4) var<storage, read_write> operand: array<Elem>;  // [rows / operand_rows, C]
@group(0) @binding(5) var<storage, read_write> y: array<Elem>;        // [rows, C]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let row = linear_group(group, grid);
    // The same for the whole workgroup; it still takes part in the barriers.
    let start = min(row, p.rows - 1u) * p.channels;
    let count = f32(p.channels);
    var mean = 0.0;
    if p.rms == 0u {
        var sum = 0.0;
        for (var c = lane; c < p.channels; c = c + WG) {
            sum = sum + f32(x[start + c]);
        }
        mean = workgroup_sum(sum, lane) / count;
    }
    var squares = 0.0;
    var plain = 0.0;
    var by_distance = 0.0;
    for (var c = lane; c < p.channels; c = c + WG) {
        let d = f32(x[start + c]) - mean;
        let g = f32(dy[start + c]) * weight[c];
        squares = squares + d * d;
        plain = plain + g;
        by_distance = by_distance + g * d;
    }
    let rstd = 1.0 / sqrt(workgroup_sum(squares, lane) / count + p.eps);
    let slope = workgroup_sum(by_distance, lane) / count * rstd * rstd;
    var level = 0.0;
    if p.rms == 0u {
        level = workgroup_sum(plain, lane) / count;
    }
    if row >= p.rows {
        return;
    }
    for (var c = lane; c < p.channels; c = c + WG) {
        let d = f32(x[start + c]) - mean;
        let g = f32(dy[start + c]) * weight[c];
        store_at(start + c, p.channels, rstd * (g - level - d * slope));
    }
}
