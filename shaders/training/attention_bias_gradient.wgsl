// attention_bias_gradient: y[q, k, h] = Σ_n w (dy · v - stats[2]), w the softmax's probability of key k for query q:
// the gradient of attention.wgsl at the bias of its scores
//   q      [N, LQ, q_stride]       Elem   head h of a row starts at column q_offset + h D
//   k, v   [N, L, k_ or v_stride]  Elem   the keys and values
//   bias   [LQ, L, heads]          Elem   added to every picture's scores
//   mask   [N, L]                  f32    added to the scores, if has_mask
//   dy     [N, LQ, heads D]        Elem   the gradient of attention's output
//   stats  [N, LQ, heads, 3]       f32    attention_statistics.wgsl
//   y      [LQ, L, heads]          f32
// One invocation computes one element of y from all pictures.
// The uniform is that of shared/attention_gradient.wgsl.

@group(0) @binding(1) var<storage, read_write> q: array<Elem>;     // [N, LQ, q_stride]
@group(0) @binding(2) var<storage, read_write> k: array<Elem>;     // [N, L, k_stride]
@group(0) @binding(3) var<storage, read_write> v: array<Elem>;     // [N, L, v_stride]
@group(0) @binding(4) var<storage, read_write> bias: array<Elem>;  // [LQ, L, heads]
@group(0) @binding(5) var<storage, read_write> mask: array<f32>;   // [N, L]
@group(0) @binding(6) var<storage, read_write> dy: array<Elem>;    // [N, LQ, heads D]
@group(0) @binding(7) var<storage, read_write> stats: array<f32>;  // [N, LQ, heads, 3]
@group(0) @binding(8) var<storage, read_write> y: array<f32>;      // [LQ, L, heads]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * 64u + lane;
    if i >= p.queries * p.keys * p.heads {
        return;
    }
    let head = i % p.heads;
    let key = i / p.heads % p.keys;
    let query = i / p.heads / p.keys;
    var sum = 0.0;
    for (var n = 0u; n < p.pictures; n = n + 1u) {
        var product = 0.0;
        var passed = 0.0;
        for (var column = 0u; column < p.head_dim; column = column + 1u) {
            product = product + query_element(n, head, query, column) * key_element(n, head, key, column);
            passed = passed + dy_element(n, head, query, column) * value_element(n, head, key, column);
        }
        let its = statistics(n, head, query);
        sum = sum + probability(product, n, head, query, key, its.x, its.y) * (passed - its.z);
    }
    y[i] = sum;
}
