// batch_norm: y = epilogue((x - mean_c) / sqrt(variance_c + eps) * weight_c + bias_c), of stored statistics
//   x, y                          [rows, C]                 Elem
//   mean, variance, weight, bias  [C]                       f32
//   operand                       [rows / operand_rows, C]  Elem
// One workgroup computes WG elements. One pass over memory.
struct Params { len: u32, channels: u32, eps: f32, act: u32, operand_op: u32, operand_rows: u32, scale: f32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<Elem>;        // [rows, C]
@group(0) @binding(2) var<storage, read> mean: array<f32>;            // [C]
@group(0) @binding(3) var<storage, read> variance: array<f32>;        // [C]
@group(0) @binding(4) var<storage, read> weight: array<f32>;          // [C]
@group(0) @binding(5) var<storage, read> bias: array<f32>;            // [C]
@group(0) @binding(6) var<storage, read_write> operand: array<Elem>;  // [rows / operand_rows, C]
@group(0) @binding(7) var<storage, read_write> y: array<Elem>;        // [rows, C]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * WG + lane;
    if i >= p.len {
        return;
    }
    let c = i % p.channels;
    let gain = weight[c] / sqrt(variance[c] + p.eps);
    store_at(i, p.channels, (f32(x[i]) - mean[c]) * gain + bias[c]);
}
