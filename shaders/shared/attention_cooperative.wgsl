// attention_cooperative: attention of ROWS queries of one head of one picture by a workgroup (64 in matrices of
// 16 x 16, 32 in those of 8 x 8), over 32 keys at a time with a running maximum and sum (FlashAttention's order: Dao et
// al. 2022, arXiv:2205.14135); heads of up to 64 columns. k and v are read once for ROWS queries. A subgroup holds its
// queries and sums 4 matrices of the output; scores pass through workgroup memory. What is summed is brought to a new
// maximum only where one is LAZY above the last (e^LAZY is an f16). Needs shared/attention.wgsl, attention_quads.wgsl
// and the matrices (shared/matrices.wgsl).

const OTHERS: u32 = 32u;
const ROWS: u32 = 4u * EDGE;
const HALVES: u32 = 16u / EDGE;   // subgroups that share EDGE queries: each has half of the columns, or all
const LAZY: f32 = 8.0;
const LEFT_ROW: u32 = 40u;
const RIGHT_ROW: u32 = 72u;
const STAGE_ROW: u32 = 36u;

var<workgroup> left: array<Staged, ROWS * LEFT_ROW / STAGED>;       // q, then weights: [ROWS, 40], 32 of a row
var<workgroup> right: array<Staged, OTHERS * RIGHT_ROW / STAGED>;   // k, then v: [OTHERS, 72], 64 of a row
var<workgroup> stage: array<f32, ROWS * STAGE_ROW>;                 // scores: [ROWS, 36]; zeros at first
var<workgroup> parts: array<f32, 256>;                              // maxima and sums of each invocation
var<workgroup> raised: u32;                                         // whether a query's maximum rose

@compute @workgroup_size(SUBGROUPS * SUBGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32,
        @builtin(subgroup_id) subgroup: u32) {
    let head = group.y;
    let n = group.z;
    let first_query = group.x * ROWS;
    let rows = subgroup / HALVES * EDGE;  // of this subgroup
    let side = subgroup % HALVES;
    let sharing = invocations() / ROWS;   // invocations of a query
    let row = lane / sharing;
    let zero = load_sum(0u);
    stage_queries(n, head, first_query, 0u, lane);
    let q0 = query_matrix(rows, 0u); let q1 = query_matrix(rows, 1u);
    let q2 = query_matrix(rows, 2u); let q3 = query_matrix(rows, 3u);
    stage_queries(n, head, first_query, 8u, lane);
    let q4 = query_matrix(rows, 0u); let q5 = query_matrix(rows, 1u);
    let q6 = query_matrix(rows, 2u); let q7 = query_matrix(rows, 3u);
    var o0 = zero; var o1 = zero; var o2 = zero; var o3 = zero;
    var top = LOWEST;
    var total = 0.0;  // of this invocation's keys
    for (var first = 0u; first < p.keys1 + p.keys2; first = first + OTHERS) {
        workgroupBarrier();
        for (var i = lane; i < OTHERS * 16u; i = i + invocations()) {
            put_right(i / 16u * (RIGHT_ROW / 4u) + i % 16u, key_quad(n, head, first + i / 16u, i % 16u));
        }
        workgroupBarrier();
        for (var i = 0u; i < 2u; i = i + 1u) {
            let key = (side * 2u + i) * EDGE;
            let at = key * RIGHT_ROW;
            var s = multiply_add(q0, load_right_turned(at), zero);
            s = multiply_add(q1, load_right_turned(at + EDGE), s);
            if EDGE == 8u {
                s = multiply_add(q2, load_right_turned(at + 16u), s);
                s = multiply_add(q3, load_right_turned(at + 24u), s);
            }
            s = multiply_add(q4, load_right_turned(at + 32u), s);
            s = multiply_add(q5, load_right_turned(at + 32u + EDGE), s);
            if EDGE == 8u {
                s = multiply_add(q6, load_right_turned(at + 48u), s);
                s = multiply_add(q7, load_right_turned(at + 56u), s);
            }
            store_sum(s, rows * STAGE_ROW + key);
        }
        workgroupBarrier();
        // Values are on their way while the scores are weighed.
        for (var i = lane; i < OTHERS * 16u; i = i + invocations()) {
            put_right(i / 16u * (RIGHT_ROW / 4u) + i % 16u, value_quad(n, head, first + i / 16u, i % 16u));
        }
        var most = HIDDEN;
        for (var c = lane % sharing * 4u; c < OTHERS; c = c + sharing * 4u) {
            for (var i = row * STAGE_ROW + c; i < row * STAGE_ROW + c + 4u; i = i + 1u) {
                stage[i] = adjusted(stage[i] * p.scale, n, head, first_query + row, first + i - row * STAGE_ROW);
                most = max(most, stage[i]);
            }
        }
        parts[lane] = most;
        if lane == 0u {
            raised = 0u;
        }
        workgroupBarrier();
        for (var i = 0u; i < sharing; i = i + 1u) {
            most = max(most, parts[row * sharing + i]);
        }
        var keep = 1.0;
        if most > top && (first == 0u || most > top + LAZY) {
            keep = exp(top - most);
            top = most;
            raised = 1u;
        }
        total = total * keep;
        for (var c = lane % sharing * 4u; c < OTHERS; c = c + sharing * 4u) {
            let at = row * STAGE_ROW + c;
            let w = vec4<f16>(exp(vec4f(stage[at], stage[at + 1u], stage[at + 2u], stage[at + 3u]) - top));
            total = total + dot(vec4f(w), vec4f(1.0));
            put_left((row * LEFT_ROW + c) / 4u, w);
        }
        if workgroupUniformLoad(&raised) != 0u && first > 0u {
            keep_parts(o0, o1, rows, side, row, lane % sharing, sharing, keep);
            o0 = load_sum(place(rows, side, 0u)); o1 = load_sum(place(rows, side, 1u));
            workgroupBarrier();
            keep_parts(o2, o3, rows, side, row, lane % sharing, sharing, keep);
            o2 = load_sum(place(rows, side, 0u)); o3 = load_sum(place(rows, side, 1u));
        }
        for (var k = 0u; k < OTHERS; k = k + EDGE) {
            let w = load_left(rows * LEFT_ROW + k);
            let at = k * RIGHT_ROW + side * 32u;
            o0 = multiply_add(w, load_right(at), o0);
            o1 = multiply_add(w, load_right(at + EDGE), o1);
            o2 = multiply_add(w, load_right(at + 2u * EDGE), o2);
            o3 = multiply_add(w, load_right(at + 3u * EDGE), o3);
        }
    }
    workgroupBarrier();
    parts[lane] = total;
    workgroupBarrier();
    total = 0.0;
    for (var i = 0u; i < sharing; i = i + 1u) {
        total = total + parts[row * sharing + i];
    }
    keep_parts(o0, o1, rows, side, row, lane % sharing, sharing, 1.0 / total);
    put_parts(n, head, first_query, row, lane % sharing, sharing, 0u);
    workgroupBarrier();
    keep_parts(o2, o3, rows, side, row, lane % sharing, sharing, 1.0 / total);
    put_parts(n, head, first_query, row, lane % sharing, sharing, 2u * EDGE);
}

fn invocations() -> u32 {
    return SUBGROUPS * SUBGROUP;
}

// Stages 32 columns of q from this quad on.
fn stage_queries(n: u32, head: u32, first_query: u32, quad: u32, lane: u32) {
    workgroupBarrier();
    for (var i = lane; i < ROWS * 8u; i = i + invocations()) {
        put_left(i / 8u * (LEFT_ROW / 4u) + i % 8u, query_quad(n, head, first_query + i / 8u, quad + i % 8u));
    }
    workgroupBarrier();
}

// Of the columns that are staged; of 16 x 16 there are two.
fn query_matrix(rows: u32, i: u32) -> Left {
    return load_left(rows * LEFT_ROW + i * EDGE % 32u);
}

// Where a subgroup's matrices of the output pass through `stage`, two at a time.
fn place(rows: u32, side: u32, i: u32) -> u32 {
    return rows * STAGE_ROW + (side * 2u + i) * EDGE;
}

// Puts two matrices into `stage`, each row times its factor.
fn keep_parts(a: Sum, b: Sum, rows: u32, side: u32, row: u32, part: u32, sharing: u32, factor: f32) {
    store_sum(a, place(rows, side, 0u));
    store_sum(b, place(rows, side, 1u));
    workgroupBarrier();
    for (var c = part; c < 32u; c = c + sharing) {
        stage[row * STAGE_ROW + c] = stage[row * STAGE_ROW + c] * factor;
    }
    workgroupBarrier();
}

// Writes what is in `stage` to the output: each subgroup's two matrices, from `column` of its four on.
fn put_parts(n: u32, head: u32, first_query: u32, row: u32, part: u32, sharing: u32, column: u32) {
    for (var c = part * 4u; c < 32u; c = c + sharing * 4u) {
        let at = row * STAGE_ROW + c;
        let to = c / (2u * EDGE) * 32u + column + c % (2u * EDGE);
        put_quad(n, head, first_query + row, to / 4u, vec4f(stage[at], stage[at + 1u], stage[at + 2u], stage[at + 3u]));
    }
}
