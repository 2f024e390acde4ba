// attention_key_gradient: dk = scale * (p * (dy · vᵀ - stats[2]))ᵀ · q and dv = pᵀ · dy per head, of one set of keys,
// with p the softmax's probabilities exp(score - stats[0]) stats[1]
//   q      [N, LQ, q_stride]      Elem   head h of a row starts at column q_offset + h D
//   k, v   [N, L, k_ or v_stride] Elem   this set of keys and values: first_key others come before
//   bias   [LQ, all_keys, heads]  Elem   added to every picture's scores, if has_bias
//   mask   [N, L]                 f32    added to the scores of this set, if has_mask
//   dy     [N, LQ, heads D]       Elem   the gradient of attention's output
//   stats  [N, LQ, heads, 3]      f32    attention_statistics.wgsl
//   dkv    [N, L, 2 heads D]      Elem   the keys' gradient, beside it the values'
// One workgroup computes ROWS keys of one head of one picture: k and v are read once for OTHERS queries, q and dy once
// for ROWS keys (shared/attention_gradient_tile.wgsl), or 64 keys
// (software/shared/attention_gradient_lanes.wgsl). Scores are
// computed again, never written to memory.
// The uniform is that of shared/attention_gradient.wgsl.

@group(0) @binding(1) var<storage, read_write> q: array<Elem>;     // [N, LQ, q_stride]
@group(0) @binding(2) var<storage, read_write> k: array<Elem>;     // [N, L, k_stride]
@group(0) @binding(3) var<storage, read_write> v: array<Elem>;     // [N, L, v_stride]
@group(0) @binding(4) var<storage, read_write> bias: array<Elem>;  // [LQ, all_keys, heads]
@group(0) @binding(5) var<storage, read_write> mask: array<f32>;   // [N, L]
@group(0) @binding(6) var<storage, read_write> dy: array<Elem>;    // [N, LQ, heads D]
@group(0) @binding(7) var<storage, read_write> stats: array<f32>;  // [N, LQ, heads, 3]
@group(0) @binding(8) var<storage, read_write> dkv: array<Elem>;   // [N, L, 2 heads D]

const TENSORS: u32 = 2u;

// Rows are keys, others are queries. First product: k · q, second: v · dy.
fn others() -> u32 {
    return p.queries;
}

fn own(second: bool, n: u32, head: u32, row: u32, column: u32) -> f32 {
    return of_key(second, n, head, row, column);
}

fn other(second: bool, n: u32, head: u32, row: u32, column: u32) -> f32 {
    return of_query(second, n, head, row, column);
}

fn take_rows(n: u32, head: u32, rows: vec4u) {
}

fn weigh(s: vec4f, dp: vec4f, n: u32, head: u32, rows: vec4u, at: u32) -> Weighed {
    let its = statistics(n, head, at);
    let e = vec4f(
        probability(s.x, n, head, at, rows.x, its.x, its.y),
        probability(s.y, n, head, at, rows.y, its.x, its.y),
        probability(s.z, n, head, at, rows.z, its.x, its.y),
        probability(s.w, n, head, at, rows.w, its.x, its.y));
    return Weighed(e, p.scale * e * (dp - its.z));
}

fn put(tensor: u32, n: u32, head: u32, row: u32, column: u32, value: f32) {
    if row < p.keys && column < p.head_dim {
        dkv[(((n * p.keys + row) * 2u + tensor) * p.heads + head) * p.head_dim + column] = Elem(value);
    }
}
