// attention_statistics: of each query and head what attention's gradients need: the largest score, one over the sum of
// the exponentials of the scores' differences from it, and the sum of dy y
//   q       [N, LQ, q_stride]     Elem   head h of a row starts at column q_offset + h D
//   k1      [N, L1, k1_stride]    Elem   the first keys; L1 may be 0
//   k2      [N, L2, k2_stride]    Elem   the rest; L2 may be 0
//   bias    [LQ, L1 + L2, heads]  Elem   added to every picture's scores, if has_bias
//   mask    [N, L1]               f32    added to the scores of the first keys, if has_mask
//   y, dy   [N, LQ, heads D]      Elem   attention's output and its gradient
//   stats   [N, LQ, heads, 3]     f32
// One workgroup computes ROWS queries of one head of one picture: q is read once for OTHERS keys, keys once for ROWS
// queries (shared/attention_statistics_tile.wgsl), or 64 queries (software/shared/attention_statistics_lanes.wgsl).
// The uniform is that of shared/attention.wgsl.

@group(0) @binding(1) var<storage, read_write> q: array<Elem>;     // [N, LQ, q_stride]
@group(0) @binding(2) var<storage, read_write> k1: array<Elem>;    // [N, L1, k1_stride]
@group(0) @binding(3) var<storage, read_write> k2: array<Elem>;    // [N, L2, k2_stride]
@group(0) @binding(4) var<storage, read_write> bias: array<Elem>;  // [LQ, L1 + L2, heads]
@group(0) @binding(5) var<storage, read_write> mask: array<f32>;   // [N, L1]
@group(0) @binding(6) var<storage, read_write> y: array<Elem>;     // [N, LQ, heads D]
@group(0) @binding(7) var<storage, read_write> dy: array<Elem>;    // [N, LQ, heads D]
@group(0) @binding(8) var<storage, read_write> stats: array<f32>;  // [N, LQ, heads, 3]

const BOTH: bool = true;

fn own(second: bool, n: u32, head: u32, row: u32, column: u32) -> f32 {
    let at = n * p.queries + min(row, p.queries - 1u);
    return f32(q[at * p.q_stride + p.q_offset + head * p.head_dim + column]);
}

fn other(second: bool, n: u32, head: u32, row: u32, column: u32) -> f32 {
    return key_element(n, row, head * p.head_dim + column);
}

fn put_statistics(n: u32, head: u32, query: u32, top: f32, total: f32) {
    if query >= p.queries {
        return;
    }
    let row = (n * p.queries + query) * p.heads + head;
    var sum = 0.0;
    for (var i = row * p.head_dim; i < (row + 1u) * p.head_dim; i = i + 1u) {
        sum = sum + f32(dy[i]) * f32(y[i]);
    }
    stats[row * 3u] = top;
    stats[row * 3u + 1u] = 1.0 / total;
    stats[row * 3u + 2u] = sum;
}
