// attention_quads: y = softmax(scale * q · kᵀ + bias + mask) · v per head, as attention.wgsl, by quads: columns,
// strides and offsets are multiples of 4, heads have up to 4096 / ROWS columns
//   q        [N, LQ, q_stride]   Elem   head h of a row starts at column q_offset + h D
//   k1, v1   [N, L1, kv1_stride] Elem   the first keys and values (text); L1 may be 0
//   k2, v2   [N, L2, kv2_stride] Elem   the rest (pixels); L2 may be 0
//   bias     [LQ, L1 + L2, heads] Elem  added to every picture's scores, if has_bias (T5's relative positions)
//   mask     [N, L1]             f32    added to the scores of the first keys, if has_mask
//   y        [N, LQ, heads D]    Elem
// One workgroup of 128 computes ROWS queries of one head of one picture over OTHERS keys at a time with a running
// maximum and sum (FlashAttention's order: Dao et al. 2022, arXiv:2205.14135). An invocation scores 4 keys for 4
// queries, and owns 8 columns of the output of these. q is read once for OTHERS keys, k and v once for ROWS queries.
// The uniform is that of shared/attention.wgsl.

@group(0) @binding(1) var<storage, read_write> q: array<vec4<Elem>>;   // [N, LQ, q_stride]
@group(0) @binding(2) var<storage, read_write> k1: array<vec4<Elem>>;  // [N, L1, k1_stride]
@group(0) @binding(3) var<storage, read_write> v1: array<vec4<Elem>>;  // [N, L1, v1_stride]
@group(0) @binding(4) var<storage, read_write> k2: array<vec4<Elem>>;  // [N, L2, k2_stride]
@group(0) @binding(5) var<storage, read_write> v2: array<vec4<Elem>>;  // [N, L2, v2_stride]
@group(0) @binding(6) var<storage, read_write> bias: array<Elem>;      // [LQ, L1 + L2, heads]
@group(0) @binding(7) var<storage, read_write> mask: array<f32>;       // [N, L1]
@group(0) @binding(8) var<storage, read_write> y: array<vec4<Elem>>;   // [N, LQ, heads D]

override ROWS: u32 = 64u;
override DOWN: u32 = ROWS / 4u;       // groups of 4 queries
override ACROSS: u32 = 128u / DOWN;   // invocations that share them
override OTHERS: u32 = ACROSS * 4u;
override WIDE: u32 = ACROSS * 2u;     // quads of columns
override STAGED: u32 = 256u / WIDE;   // rows of v that are staged at a time
const DEPTH: u32 = 16u;               // columns of q and k that are staged at a time

var<workgroup> left: array<vec4f, 256>;     // q: [DEPTH, DOWN], 4 queries each
var<workgroup> right: array<vec4f, 256>;    // k: [DEPTH, ACROSS], 4 keys each; maxima; v: [STAGED, WIDE]
var<workgroup> weights: array<vec4f, 512>;  // [OTHERS, DOWN], 4 queries each

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = group.y;
    let n = group.z;
    let down = lane / ACROSS;
    let across = lane % ACROSS;
    let query = group.x * ROWS + down * 4u;
    var low = mat4x4f();  // the first 4 columns of 4 queries
    var high = mat4x4f(); // those 4 ACROSS further on
    var top = vec4f(LOWEST);
    var total = vec4f();  // of this invocation's keys
    for (var first = 0u; first < p.keys1 + p.keys2; first = first + OTHERS) {
        var s = mat4x4f(); // a column for each key, 4 queries each
        for (var column = 0u; column < p.head_dim; column = column + DEPTH) {
            workgroupBarrier();
            for (var i = lane; i < DOWN * 4u; i = i + 128u) {
                let row = group.x * ROWS + i / 4u * 4u;
                let quad = column / 4u + i % 4u;
                let x = transpose(mat4x4f(
                    vec4f(query_quad(n, head, row, quad)), vec4f(query_quad(n, head, row + 1u, quad)),
                    vec4f(query_quad(n, head, row + 2u, quad)), vec4f(query_quad(n, head, row + 3u, quad))));
                let at = i % 4u * 4u * DOWN + i / 4u;
                left[at] = x[0]; left[at + DOWN] = x[1];
                left[at + 2u * DOWN] = x[2]; left[at + 3u * DOWN] = x[3];
            }
            for (var i = lane; i < ACROSS * 4u; i = i + 128u) {
                let row = first + i / 4u * 4u;
                let quad = column / 4u + i % 4u;
                let x = transpose(mat4x4f(
                    vec4f(key_quad(n, head, row, quad)), vec4f(key_quad(n, head, row + 1u, quad)),
                    vec4f(key_quad(n, head, row + 2u, quad)), vec4f(key_quad(n, head, row + 3u, quad))));
                let at = i % 4u * 4u * ACROSS + i / 4u;
                right[at] = x[0]; right[at + ACROSS] = x[1];
                right[at + 2u * ACROSS] = x[2]; right[at + 3u * ACROSS] = x[3];
            }
            workgroupBarrier();
            for (var d = 0u; d < DEPTH; d = d + 1u) {
                let x = left[d * DOWN + down];
                let k = right[d * ACROSS + across];
                s = s + mat4x4f(x * k.x, x * k.y, x * k.z, x * k.w);
            }
        }
        let at = first + across * 4u;
        s = mat4x4f(score(s[0], n, head, query, at), score(s[1], n, head, query, at + 1u),
            score(s[2], n, head, query, at + 2u), score(s[3], n, head, query, at + 3u));
        workgroupBarrier();
        right[across * DOWN + down] = max(max(s[0], s[1]), max(s[2], s[3]));
        workgroupBarrier();
        var new_top = top;
        for (var i = 0u; i < ACROSS; i = i + 1u) {
            new_top = max(new_top, right[i * DOWN + down]);
        }
        let keep = exp(top - new_top);
        top = new_top;
        let e = mat4x4f(exp(s[0] - top), exp(s[1] - top), exp(s[2] - top), exp(s[3] - top));
        let put = across * 4u * DOWN + down;
        weights[put] = e[0]; weights[put + DOWN] = e[1];
        weights[put + 2u * DOWN] = e[2]; weights[put + 3u * DOWN] = e[3];
        total = total * keep + e[0] + e[1] + e[2] + e[3];
        low = mat4x4f(low[0] * keep.x, low[1] * keep.y, low[2] * keep.z, low[3] * keep.w);
        high = mat4x4f(high[0] * keep.x, high[1] * keep.y, high[2] * keep.z, high[3] * keep.w);
        for (var part = 0u; part < OTHERS; part = part + STAGED) {
            workgroupBarrier();
            for (var i = lane; i < 256u; i = i + 128u) {
                right[i] = vec4f(value_quad(n, head, first + part + i / WIDE, i % WIDE));
            }
            workgroupBarrier();
            for (var k = 0u; k < STAGED; k = k + 1u) {
                let w = weights[(part + k) * DOWN + down];
                let a = right[k * WIDE + across];
                let b = right[k * WIDE + ACROSS + across];
                low = low + mat4x4f(w.x * a, w.y * a, w.z * a, w.w * a);
                high = high + mat4x4f(w.x * b, w.y * b, w.z * b, w.w * b);
            }
        }
    }
    workgroupBarrier();
    right[across * DOWN + down] = total;
    workgroupBarrier();
    total = vec4f();
    for (var i = 0u; i < ACROSS; i = i + 1u) {
        total = total + right[i * DOWN + down];
    }
    put_quad(n, head, query, across, low[0] / total.x); put_quad(n, head, query, ACROSS + across, high[0] / total.x);
    put_quad(n, head, query + 1u, across, low[1] / total.y);
    put_quad(n, head, query + 1u, ACROSS + across, high[1] / total.y);
    put_quad(n, head, query + 2u, across, low[2] / total.z);
    put_quad(n, head, query + 2u, ACROSS + across, high[2] / total.z);
    put_quad(n, head, query + 3u, across, low[3] / total.w);
    put_quad(n, head, query + 3u, ACROSS + across, high[3] / total.w);
}

// The scores of a key for 4 queries from their products.
fn score(product: vec4f, n: u32, head: u32, query: u32, at: u32) -> vec4f {
    let s = product * p.scale;
    return vec4f(adjusted(s.x, n, head, query, at), adjusted(s.y, n, head, query + 1u, at),
        adjusted(s.z, n, head, query + 2u, at), adjusted(s.w, n, head, query + 3u, at));
}
