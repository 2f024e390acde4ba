// layer_norm: y = (x - mean) / sqrt(var + eps) * weight + bias per row; RMS: y = x / sqrt(mean(x²) + eps) * weight
//   x, y         [rows, C]  Elem
//   weight, bias [C]        f32   bias is not read for RMS
// One workgroup normalises one row. Three passes over the row.
struct Params { rows: u32, channels: u32, rms: u32, eps: f32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<Elem>;  // [rows, C]
@group(0) @binding(2) var<storage, read> weight: array<f32>;    // [C]
@group(0) @binding(3) var<storage, read> bias: array<f32>;      // [C]
@group(0) @binding(4) var<storage, read_write> y: array<Elem>;  // [rows, C]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let row = linear_group(group, grid);
    // The same for the whole workgroup; it still takes part in the barriers.
    let start = min(row, p.rows - 1u) * p.channels;
    var mean = 0.0;
    if p.rms == 0u {
        var sum = 0.0;
        for (var c = lane; c < p.channels; c = c + WG) {
            sum = sum + f32(x[start + c]);
        }
        mean = workgroup_sum(sum, lane) / f32(p.channels);
    }
    var squares = 0.0;
    for (var c = lane; c < p.channels; c = c + WG) {
        let d = f32(x[start + c]) - mean;
        squares = squares + d * d;
    }
    let rstd = 1.0 / sqrt(workgroup_sum(squares, lane) / f32(p.channels) + p.eps);
    if row >= p.rows {
        return;
    }
    for (var c = lane; c < p.channels; c = c + WG) {
        var v = (f32(x[start + c]) - mean) * rstd * weight[c];
        if p.rms == 0u {
            v = v + bias[c];
        }
        y[start + c] = Elem(v);
    }
}
