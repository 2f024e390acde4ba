// attention_tile: attention of ROWS queries of one head of one picture by a workgroup of 256, over OTHERS keys at a
// time with a running maximum and sum (FlashAttention's order: Dao et al. 2022, arXiv:2205.14135). An invocation owns 4
// queries and 4 PARTS columns of their output; head_dim <= 4096 / ROWS PARTS. q is read once for OTHERS keys, k and v
// once for ROWS queries. Needs shared/attention.wgsl, attention_value.wgsl and the
// constants
// ROWS, OTHERS: ROWS OTHERS <= 2048, OTHERS a multiple of 1024 / ROWS and of 4
// PARTS: ROWS >= 8 PARTS

const WG: u32 = 256u;
const DEPTH: u32 = 16u;         // columns of q and k that are staged at a time
const DOWN: u32 = ROWS / 4u;             // groups of 4 queries
const ACROSS: u32 = WG / DOWN;              // invocations that share 4 queries
const OWN: u32 = OTHERS / ACROSS;             // keys an invocation scores for its 4 queries
const WIDE: u32 = ACROSS * PARTS;           // groups of 4 columns
const STAGED: u32 = 256u / WIDE;            // rows of v that are staged at a time

var<workgroup> left: array<vec4f, 256>;     // q: [DEPTH, DOWN], 4 queries each
var<workgroup> right: array<vec4f, 256>;    // k: [DEPTH, OTHERS / 4], 4 keys each; v: [STAGED, WIDE], 4 columns each
var<workgroup> weights: array<vec4f, 512>;  // [OTHERS, DOWN], 4 queries each

fn attend_tile(group: vec3<u32>, lane: u32) {
    let head = group.y;
    let n = group.z;
    let keys = p.keys1 + p.keys2;
    let down = lane / ACROSS;
    let across = lane % ACROSS;
    let query = group.x * ROWS + down * 4u;
    var sums: array<mat4x4f, PARTS>; // a column each for 4 queries
    var top = vec4f(LOWEST);
    var total = vec4f(0.0);
    for (var first = 0u; first < keys; first = first + OTHERS) {
        var s: array<vec4f, OWN>;
        for (var j = 0u; j < OWN; j = j + 1u) {
            s[j] = vec4f(0.0);
        }
        for (var i = 0u; i < p.head_dim; i = i + DEPTH) {
            let column = i + lane % DEPTH;
            let inside = f32(column < p.head_dim);
            let from_column = head * p.head_dim + min(column, p.head_dim - 1u);
            workgroupBarrier();
            for (var g = lane / DEPTH; g < DOWN; g = g + WG / DEPTH) {
                let row = min(vec4u(0u, 1u, 2u, 3u) + group.x * ROWS + g * 4u, vec4u(p.queries - 1u));
                let at = (n * p.queries + row) * p.q_stride + p.q_offset + from_column;
                left[lane % DEPTH * DOWN + g] = inside * vec4f(f32(q[at.x]), f32(q[at.y]), f32(q[at.z]), f32(q[at.w]));
            }
            for (var g = lane / DEPTH; g < OTHERS / 4u; g = g + WG / DEPTH) {
                let at = first + g * 4u;
                right[lane % DEPTH * (OTHERS / 4u) + g] = vec4f(
                    key_element(n, at, from_column), key_element(n, at + 1u, from_column),
                    key_element(n, at + 2u, from_column), key_element(n, at + 3u, from_column));
            }
            workgroupBarrier();
            for (var d = 0u; d < DEPTH; d = d + 1u) {
                let x = left[d * DOWN + down];
                for (var j = 0u; j < OWN; j = j + 1u) {
                    let k = across * OWN + j;
                    s[j] = s[j] + x * right[d * (OTHERS / 4u) + k / 4u][k % 4u];
                }
            }
        }
        for (var j = 0u; j < OWN; j = j + 1u) {
            let at = first + across * OWN + j;
            s[j] = s[j] * p.scale;
            s[j] = vec4f(adjusted(s[j].x, n, head, query, at), adjusted(s[j].y, n, head, query + 1u, at),
                adjusted(s[j].z, n, head, query + 2u, at), adjusted(s[j].w, n, head, query + 3u, at));
            weights[(across * OWN + j) * DOWN + down] = s[j];
        }
        workgroupBarrier();
        var new_top = top;
        for (var k = 0u; k < OTHERS; k = k + 1u) {
            new_top = max(new_top, weights[k * DOWN + down]);
        }
        let keep = exp(top - new_top);
        top = new_top;
        workgroupBarrier();
        for (var j = 0u; j < OWN; j = j + 1u) {
            weights[(across * OWN + j) * DOWN + down] = exp(s[j] - top);
        }
        total = total * keep;
        for (var g = 0u; g < PARTS; g = g + 1u) {
            sums[g] = mat4x4f(sums[g][0] * keep.x, sums[g][1] * keep.y, sums[g][2] * keep.z, sums[g][3] * keep.w);
        }
        for (var part = 0u; part < OTHERS; part = part + STAGED) {
            workgroupBarrier();
            let from_row = first + part + lane / WIDE;
            let c = head * p.head_dim + min(vec4u(0u, 1u, 2u, 3u) + lane % WIDE * 4u, vec4u(p.head_dim - 1u));
            if lane < STAGED * WIDE {
                right[lane] = vec4f(value_element(n, from_row, c.x), value_element(n, from_row, c.y),
                    value_element(n, from_row, c.z), value_element(n, from_row, c.w));
            }
            workgroupBarrier();
            for (var k = 0u; k < STAGED; k = k + 1u) {
                let e = weights[(part + k) * DOWN + down];
                total = total + e;
                for (var g = 0u; g < PARTS; g = g + 1u) {
                    let x = right[k * WIDE + g * ACROSS + across];
                    sums[g] = sums[g] + mat4x4f(e.x * x, e.y * x, e.z * x, e.w * x);
                }
            }
        }
    }
    for (var j = 0u; j < 4u; j = j + 1u) {
        for (var g = 0u; g < PARTS; g = g + 1u) {
            for (var i = 0u; i < 4u; i = i + 1u) {
                let column = (g * ACROSS + across) * 4u + i;
                if query + j < p.queries && column < p.head_dim {
                    let row = (n * p.queries + query + j) * p.heads + head;
                    y[row * p.head_dim + column] = Elem(sums[g][j][i] / total[j]);
                }
            }
        }
    }
}
