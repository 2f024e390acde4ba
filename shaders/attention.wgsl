// attention: y = softmax(scale * q · kᵀ + bias + mask) · v per head, by tiles of keys with a running maximum and sum;
// the scores are never written to memory
//   q        [N, LQ, q_stride]   Elem   head h of a row starts at column q_offset + h D
//   k1, v1   [N, L1, kv1_stride] Elem   the first keys and values (text); L1 may be 0
//   k2, v2   [N, L2, kv2_stride] Elem   the rest (pixels); L2 may be 0
//   bias     [LQ, L1 + L2, heads] Elem  added to every picture's scores, if has_bias (T5's relative positions)
//   mask     [N, L1]             f32    added to the scores of the first keys, if has_mask
//   y        [N, LQ, heads D]    Elem
// One workgroup computes 16 queries of one head of one picture. q is read once, k and v once per 16 queries.
struct Params {
    heads: u32, head_dim: u32, queries: u32, keys1: u32, keys2: u32,
    q_stride: u32, k1_stride: u32, k1_offset: u32, v1_stride: u32, v1_offset: u32,
    k2_stride: u32, k2_offset: u32, v2_stride: u32, v2_offset: u32, q_offset: u32,
    has_bias: u32, has_mask: u32, causal: u32, scale: f32,
}

const WG: u32 = 64u;
const TILE: u32 = 16u;      // queries, and keys, of a tile
const LANES: u32 = 4u;      // invocations that share a query
const OWNED: u32 = 128u;    // output columns an invocation can hold: head_dim <= OWNED * LANES

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> q: array<Elem>;   // [N, LQ, q_stride]
@group(0) @binding(2) var<storage, read_write> k1: array<Elem>;  // [N, L1, k1_stride]
@group(0) @binding(3) var<storage, read_write> v1: array<Elem>;  // [N, L1, v1_stride]
@group(0) @binding(4) var<storage, read_write> k2: array<Elem>;  // [N, L2, k2_stride]
@group(0) @binding(5) var<storage, read_write> v2: array<Elem>;  // [N, L2, v2_stride]
@group(0) @binding(6) var<storage, read_write> bias: array<Elem>; // [LQ, L1 + L2, heads]
@group(0) @binding(7) var<storage, read_write> mask: array<f32>; // [N, L1]
@group(0) @binding(8) var<storage, read_write> y: array<Elem>;   // [N, LQ, heads D]

const LOWEST: f32 = -3.0e38;

var<workgroup> scores: array<f32, 256>;   // [TILE queries, TILE keys]
var<workgroup> row_max: array<f32, 16>;
var<workgroup> row_sum: array<f32, 16>;
var<workgroup> row_keep: array<f32, 16>;  // factor for what was summed before this tile

fn score(n: u32, head: u32, query: u32, key: u32) -> f32 {
    let d = p.head_dim;
    let at_q = (n * p.queries + query) * p.q_stride + p.q_offset + head * d;
    var sum = 0.0;
    if key < p.keys1 {
        let at_k = (n * p.keys1 + key) * p.k1_stride + p.k1_offset + head * d;
        for (var i = 0u; i < d; i = i + 1u) {
            sum = sum + f32(q[at_q + i]) * f32(k1[at_k + i]);
        }
    } else {
        let at_k = (n * p.keys2 + key - p.keys1) * p.k2_stride + p.k2_offset + head * d;
        for (var i = 0u; i < d; i = i + 1u) {
            sum = sum + f32(q[at_q + i]) * f32(k2[at_k + i]);
        }
    }
    sum = sum * p.scale;
    if p.has_bias != 0u {
        sum = sum + f32(bias[(query * (p.keys1 + p.keys2) + key) * p.heads + head]);
    }
    if p.has_mask != 0u && key < p.keys1 {
        sum = sum + mask[n * p.keys1 + key];
    }
    return max(sum, LOWEST);
}

fn value(n: u32, head: u32, key: u32, column: u32) -> f32 {
    if key < p.keys1 {
        return f32(v1[(n * p.keys1 + key) * p.v1_stride + p.v1_offset + head * p.head_dim + column]);
    }
    return f32(v2[(n * p.keys2 + key - p.keys1) * p.v2_stride + p.v2_offset + head * p.head_dim + column]);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = group.y;
    let n = group.z;
    let first = group.x * TILE;
    let keys = p.keys1 + p.keys2;
    let row = lane / LANES;
    let column = lane % LANES;
    let owned = (p.head_dim + LANES - 1u - column) / LANES;
    var sums: array<f32, OWNED>;
    for (var j = 0u; j < owned; j = j + 1u) {
        sums[j] = 0.0;
    }
    if lane < TILE {
        row_max[lane] = LOWEST;
        row_sum[lane] = 0.0;
    }
    for (var tile = 0u; tile < keys; tile = tile + TILE) {
        workgroupBarrier();
        for (var i = lane; i < TILE * TILE; i = i + WG) {
            let query = first + i / TILE;
            let key = tile + i % TILE;
            var s = LOWEST;
            if query < p.queries && key < keys && (p.causal == 0u || key <= query) {
                s = score(n, head, query, key);
            }
            scores[i] = s;
        }
        workgroupBarrier();
        if lane < TILE {
            var top = row_max[lane];
            for (var i = 0u; i < TILE; i = i + 1u) {
                top = max(top, scores[lane * TILE + i]);
            }
            let keep = exp(row_max[lane] - top);
            var sum = row_sum[lane] * keep;
            for (var i = 0u; i < TILE; i = i + 1u) {
                let at = lane * TILE + i;
                // A score at LOWEST is a key outside the tile, or a masked one beside a real one: no weight.
                var e = exp(scores[at] - top);
                if tile + i >= keys || (p.causal != 0u && tile + i > first + lane) {
                    e = 0.0;
                }
                scores[at] = e;
                sum = sum + e;
            }
            row_max[lane] = top;
            row_sum[lane] = sum;
            row_keep[lane] = keep;
        }
        workgroupBarrier();
        let keep = row_keep[row];
        for (var j = 0u; j < owned; j = j + 1u) {
            sums[j] = sums[j] * keep;
        }
        let end = min(TILE, keys - tile);
        for (var i = 0u; i < end; i = i + 1u) {
            let e = scores[row * TILE + i];
            for (var j = 0u; j < owned; j = j + 1u) {
                sums[j] = sums[j] + e * value(n, head, tile + i, column + j * LANES);
            }
        }
    }
    let query = first + row;
    if query < p.queries {
        let at = (n * p.queries + query) * p.heads * p.head_dim + head * p.head_dim;
        let total = row_sum[row];
        for (var j = 0u; j < owned; j = j + 1u) {
            y[at + column + j * LANES] = Elem(sums[j] / total);
        }
    }
}
