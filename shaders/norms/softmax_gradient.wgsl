// softmax_gradient: dx = s (dy - Σ dy s) per row of s = softmax(x); logarithm: dx = dy - e^s Σ dy, s = ln softmax(x)
//   s       [rows, C]  Elem   what softmax.wgsl computed
//   dy, dx  [rows, C]  Elem
// One workgroup computes one row. Two passes over the row.
struct Params { rows: u32, channels: u32, logarithm: u32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> s: array<Elem>;   // [rows, C]
@group(0) @binding(2) var<storage, read_write> dy: array<Elem>;  // [rows, C]
@group(0) @binding(3) var<storage, read_write> dx: array<Elem>;  // [rows, C]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let row = linear_group(group, grid);
    // The same for the whole workgroup; it still takes part in the barriers.
    let start = min(row, p.rows - 1u) * p.channels;
    var sum = 0.0;
    for (var c = lane; c < p.channels; c = c + WG) {
        let d = f32(dy[start + c]);
        sum = sum + d * select(f32(s[start + c]), 1.0, p.logarithm != 0u);
    }
    sum = workgroup_sum(sum, lane);
    if row >= p.rows {
        return;
    }
    for (var c = lane; c < p.channels; c = c + WG) {
        let d = f32(dy[start + c]);
        let v = f32(s[start + c]);
        if p.logarithm != 0u {
            dx[start + c] = Elem(d - exp(v) * sum);
        } else {
            dx[start + c] = Elem(v * (d - sum));
        }
    }
}
