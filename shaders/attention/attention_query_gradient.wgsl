// attention_query_gradient: dq = scale * (p * (dy · vᵀ - stats[2])) · k per head, over one set of keys, with p the
// softmax's probabilities exp(score - stats[0]) stats[1]
//   q      [N, LQ, q_stride]      Elem   head h of a row starts at column q_offset + h D
//   k, v   [N, L, k_ or v_stride] Elem   this set of keys and values: first_key others come before
//   bias   [LQ, all_keys, heads]  Elem   added to every picture's scores, if has_bias
//   mask   [N, L]                 f32    added to the scores of this set, if has_mask
//   dy     [N, LQ, heads D]       Elem   the gradient of attention's output
//   stats  [N, LQ, heads, 3]      f32    attention_statistics.wgsl
//   dq     [N, LQ, heads D]       Elem
// One workgroup computes ROWS queries of one head of one picture: q and dy are read once for OTHERS keys, k and v once
// for ROWS queries (shared/attention_gradient_tile.wgsl), or 64 queries
// (software/shared/attention_gradient_lanes.wgsl). Scores
// are computed again, never written to memory.
// The uniform is that of shared/attention_gradient.wgsl.

@group(0) @binding(1) var<storage, read_write> q: array<Elem>;     // [N, LQ, q_stride]
@group(0) @binding(2) var<storage, read_write> k: array<Elem>;     // [N, L, k_stride]
@group(0) @binding(3) var<storage, read_write> v: array<Elem>;     // [N, L, v_stride]
@group(0) @binding(4) var<storage, read_write> bias: array<Elem>;  // [LQ, all_keys, heads]
@group(0) @binding(5) var<storage, read_write> mask: array<f32>;   // [N, L]
@group(0) @binding(6) var<storage, read_write> dy: array<Elem>;    // [N, LQ, heads D]
@group(0) @binding(7) var<storage, read_write> stats: array<f32>;  // [N, LQ, heads, 3]
@group(0) @binding(8) var<storage, read_write> dq: array<Elem>;    // [N, LQ, heads D]

const TENSORS: u32 = 1u;

// Rows are queries, others are keys. First product: q · k, second: dy · v.
fn others() -> u32 {
    return p.keys;
}

fn own(second: bool, n: u32, head: u32, row: u32, column: u32) -> f32 {
    return of_query(second, n, head, row, column);
}

fn other(second: bool, n: u32, head: u32, row: u32, column: u32) -> f32 {
    return of_key(second, n, head, row, column);
}

var<private> top: vec4f;         // of this invocation's queries
var<private> over_total: vec4f;
var<private> sum_dy_y: vec4f;

fn take_rows(n: u32, head: u32, rows: vec4u) {
    let a = statistics(n, head, rows.x);
    let b = statistics(n, head, rows.y);
    let c = statistics(n, head, rows.z);
    let d = statistics(n, head, rows.w);
    top = vec4f(a.x, b.x, c.x, d.x);
    over_total = vec4f(a.y, b.y, c.y, d.y);
    sum_dy_y = vec4f(a.z, b.z, c.z, d.z);
}

fn weigh(s: vec4f, dp: vec4f, n: u32, head: u32, rows: vec4u, at: u32) -> Weighed {
    let e = vec4f(
        probability(s.x, n, head, rows.x, at, top.x, over_total.x),
        probability(s.y, n, head, rows.y, at, top.y, over_total.y),
        probability(s.z, n, head, rows.z, at, top.z, over_total.z),
        probability(s.w, n, head, rows.w, at, top.w, over_total.w));
    return Weighed(e, p.scale * e * (dp - sum_dy_y));
}

fn put(tensor: u32, n: u32, head: u32, row: u32, column: u32, value: f32) {
    if row < p.queries && column < p.head_dim {
        dq[((n * p.queries + row) * p.heads + head) * p.head_dim + column] = Elem(value);
    }
}
