// attention_gradient_lanes: as attention_gradient_tile.wgsl without workgroup memory or barriers, for adapters whose
// subgroups are the 8 lanes of a processor's vector, as shared/attention_lanes.wgsl: an invocation owns 4 rows; others
// go by blocks of BLOCK. Needs spread.wgsl, heads of up to DIM columns, and what attention_gradient_tile.wgsl needs.

const WG: u32 = 16u;
const DIM: u32 = 64u;
const BLOCK: u32 = 64u;

// Of each row what the first and then the second product reads, and the sums. One array of scalars for each row: their
// common index is taken apart once.
var<private> own0: array<f32, 128>; var<private> own1: array<f32, 128>;
var<private> own2: array<f32, 128>; var<private> own3: array<f32, 128>;
var<private> sum0: array<f32, 128>; var<private> sum1: array<f32, 128>;
var<private> sum2: array<f32, 128>; var<private> sum3: array<f32, 128>;
// Of each other in the block: the probabilities, then the gradients of the products.
var<private> e0: array<f32, 128>; var<private> e1: array<f32, 128>;
var<private> e2: array<f32, 128>; var<private> e3: array<f32, 128>;

fn products8(second: bool, n: u32, head: u32, at: u32, lane: u32) -> array<vec4f, 8> {
    let base = select(0u, DIM, second);
    var s = array<vec4f, 8>();
    for (var i = 0u; i < p.head_dim; i = i + 8u) {
        var c: array<vec4f, 8>;
        for (var j = 0u; j < 8u; j = j + 1u) {
            let o = base + i + j;
            c[j] = vec4f(own0[o], own1[o], own2[o], own3[o]);
        }
        let column = min(i + lane, p.head_dim - 1u);
        s[0] = dot8(c, other(second, n, head, at, column), s[0]);
        s[1] = dot8(c, other(second, n, head, at + 1u, column), s[1]);
        s[2] = dot8(c, other(second, n, head, at + 2u, column), s[2]);
        s[3] = dot8(c, other(second, n, head, at + 3u, column), s[3]);
        s[4] = dot8(c, other(second, n, head, at + 4u, column), s[4]);
        s[5] = dot8(c, other(second, n, head, at + 5u, column), s[5]);
        s[6] = dot8(c, other(second, n, head, at + 6u, column), s[6]);
        s[7] = dot8(c, other(second, n, head, at + 7u, column), s[7]);
    }
    return s;
}

// Adds the others from `first` on, `count` of them, times their probabilities or gradients.
fn add_others(second: bool, n: u32, head: u32, first: u32, count: u32, lane: u32) {
    let start = select(BLOCK, 0u, second);
    let to = select(0u, DIM, second);
    for (var i = 0u; i < p.head_dim; i = i + 16u) {
        var a = array<vec4f, 8>();
        var b = array<vec4f, 8>();
        let column0 = min(i + lane, p.head_dim - 1u);
        let column1 = min(i + 8u + lane, p.head_dim - 1u);
        for (var k = 0u; k < count; k = k + 1u) {
            let e = vec4f(e0[start + k], e1[start + k], e2[start + k], e3[start + k]);
            a = add8(a, e, other(second, n, head, first + k, column0));
            b = add8(b, e, other(second, n, head, first + k, column1));
        }
        for (var j = 0u; j < 8u; j = j + 1u) {
            let at = to + i + j;
            sum0[at] = sum0[at] + a[j].x;
            sum0[at + 8u] = sum0[at + 8u] + b[j].x;
            sum1[at] = sum1[at] + a[j].y;
            sum1[at + 8u] = sum1[at + 8u] + b[j].y;
            sum2[at] = sum2[at] + a[j].z;
            sum2[at + 8u] = sum2[at + 8u] + b[j].z;
            sum3[at] = sum3[at] + a[j].w;
            sum3[at + 8u] = sum3[at + 8u] + b[j].w;
        }
    }
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let head = group.y;
    let n = group.z;
    let rows = vec4u(0u, WG, 2u * WG, 3u * WG) + group.x * 4u * WG + index;
    for (var i = 0u; i < p.head_dim; i = i + 1u) {
        own0[i] = own(false, n, head, rows.x, i);
        own1[i] = own(false, n, head, rows.y, i);
        own2[i] = own(false, n, head, rows.z, i);
        own3[i] = own(false, n, head, rows.w, i);
        own0[DIM + i] = own(true, n, head, rows.x, i);
        own1[DIM + i] = own(true, n, head, rows.y, i);
        own2[DIM + i] = own(true, n, head, rows.z, i);
        own3[DIM + i] = own(true, n, head, rows.w, i);
    }
    take_rows(n, head, rows);
    for (var first = 0u; first < others(); first = first + BLOCK) {
        let count = min(BLOCK, others() - first);
        for (var k = 0u; k < count; k = k + 8u) {
            var s = products8(false, n, head, first + k, lane);
            var dp = products8(true, n, head, first + k, lane);
            for (var j = 0u; j < 8u; j = j + 1u) {
                let w = weigh(s[j], dp[j], n, head, rows, first + k + j);
                let at = k + j;
                e0[at] = w.p.x;
                e1[at] = w.p.y;
                e2[at] = w.p.z;
                e3[at] = w.p.w;
                e0[BLOCK + at] = w.d.x;
                e1[BLOCK + at] = w.d.y;
                e2[BLOCK + at] = w.d.z;
                e3[BLOCK + at] = w.d.w;
            }
        }
        add_others(false, n, head, first, count, lane);
        if TENSORS == 2u {
            add_others(true, n, head, first, count, lane);
        }
    }
    for (var tensor = 0u; tensor < TENSORS; tensor = tensor + 1u) {
        for (var i = 0u; i < p.head_dim; i = i + 1u) {
            put(tensor, n, head, rows.x, i, sum0[tensor * DIM + i]);
            put(tensor, n, head, rows.y, i, sum1[tensor * DIM + i]);
            put(tensor, n, head, rows.z, i, sum2[tensor * DIM + i]);
            put(tensor, n, head, rows.w, i, sum3[tensor * DIM + i]);
        }
    }
}
