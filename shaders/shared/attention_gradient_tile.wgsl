// attention_gradient_tile: the sums over all others, for ROWS rows of one head of one picture by a workgroup of 256
// that takes OTHERS at a time (FlashAttention's backward pass without atomics: Dao et al. 2022, arXiv:2205.14135). An
// invocation owns 4 rows and 4 PARTS columns of their sums; head_dim <= 4096 / ROWS PARTS. Needs
// attention_products.wgsl, attention_gradient.wgsl and the file's TENSORS (2: the second product's others are summed by
// probability, too), others, take_rows, weigh and put.

const WIDE: u32 = ACROSS * PARTS;           // groups of 4 columns
const STAGED: u32 = 256u / WIDE;            // others that are staged at a time

var<workgroup> weights: array<vec4f, 512>;  // [OTHERS, DOWN], 4 rows each
var<private> sums: array<mat4x4f, TENSORS * PARTS>; // a column each for 4 rows

// Adds the others from `first` on times their weights; of the second product or the first.
fn add_others(second: bool, tensor: u32, n: u32, head: u32, first: u32, lane: u32) {
    for (var part = 0u; part < OTHERS; part = part + STAGED) {
        workgroupBarrier();
        let row = first + part + lane / WIDE;
        let c = min(vec4u(0u, 1u, 2u, 3u) + lane % WIDE * 4u, vec4u(p.head_dim - 1u));
        if lane < STAGED * WIDE {
            right[lane] = vec4f(other(second, n, head, row, c.x), other(second, n, head, row, c.y),
                other(second, n, head, row, c.z), other(second, n, head, row, c.w));
        }
        workgroupBarrier();
        for (var k = 0u; k < STAGED; k = k + 1u) {
            let e = weights[(part + k) * DOWN + lane / ACROSS];
            for (var g = 0u; g < PARTS; g = g + 1u) {
                let x = right[k * WIDE + g * ACROSS + lane % ACROSS];
                let at = tensor * PARTS + g;
                sums[at] = sums[at] + mat4x4f(e.x * x, e.y * x, e.z * x, e.w * x);
            }
        }
    }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = group.y;
    let n = group.z;
    let down = lane / ACROSS;
    let across = lane % ACROSS;
    let rows = vec4u(0u, 1u, 2u, 3u) + group.x * ROWS + down * 4u;
    take_rows(n, head, rows);
    for (var first = 0u; first < others(); first = first + OTHERS) {
        let s = products(false, n, head, group.x * ROWS, first, lane);
        let dp = products(true, n, head, group.x * ROWS, first, lane);
        var d: array<vec4f, OWN>;
        for (var j = 0u; j < OWN; j = j + 1u) {
            let weighed = weigh(s[j], dp[j], n, head, rows, first + across * OWN + j);
            d[j] = weighed.d;
            weights[(across * OWN + j) * DOWN + down] = weighed.p;
        }
        if TENSORS == 2u {
            add_others(true, 1u, n, head, first, lane);
            workgroupBarrier();
        }
        for (var j = 0u; j < OWN; j = j + 1u) {
            weights[(across * OWN + j) * DOWN + down] = d[j];
        }
        add_others(false, 0u, n, head, first, lane);
    }
    for (var g = 0u; g < TENSORS * PARTS; g = g + 1u) {
        for (var j = 0u; j < 4u; j = j + 1u) {
            for (var i = 0u; i < 4u; i = i + 1u) {
                put(g / PARTS, n, head, rows[j], (g % PARTS * ACROSS + across) * 4u + i, sums[g][j][i]);
            }
        }
    }
}
