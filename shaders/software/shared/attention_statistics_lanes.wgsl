// attention_statistics_lanes: the statistics without workgroup memory or barriers, for adapters whose subgroups are the
// 8 lanes of a processor's vector, as shared/attention_lanes.wgsl: an invocation owns 4 queries. Needs
// shared/attention.wgsl, spread.wgsl, the functions of attention_statistics.wgsl and heads of up to 64 columns.

const WG: u32 = 16u;
const DIM: u32 = 64u;

var<private> own0: array<f32, DIM>;
var<private> own1: array<f32, DIM>;
var<private> own2: array<f32, DIM>;
var<private> own3: array<f32, DIM>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let head = group.y;
    let n = group.z;
    let keys = p.keys1 + p.keys2;
    let rows = vec4u(0u, WG, 2u * WG, 3u * WG) + group.x * 4u * WG + index;
    for (var i = 0u; i < p.head_dim; i = i + 1u) {
        own0[i] = p.scale * own(false, n, head, rows.x, i);
        own1[i] = p.scale * own(false, n, head, rows.y, i);
        own2[i] = p.scale * own(false, n, head, rows.z, i);
        own3[i] = p.scale * own(false, n, head, rows.w, i);
    }
    let plain = p.has_bias + p.has_mask + p.causal == 0u;
    var top = vec4f(LOWEST);
    var total = vec4f(0.0);
    for (var at = 0u; at < keys; at = at + 8u) {
        var s = array<vec4f, 8>();
        for (var i = 0u; i < p.head_dim; i = i + 8u) {
            var c: array<vec4f, 8>;
            for (var j = 0u; j < 8u; j = j + 1u) {
                c[j] = vec4f(own0[i + j], own1[i + j], own2[i + j], own3[i + j]);
            }
            let column = head * p.head_dim + min(i + lane, p.head_dim - 1u);
            s[0] = dot8(c, key_element(n, at, column), s[0]);
            s[1] = dot8(c, key_element(n, at + 1u, column), s[1]);
            s[2] = dot8(c, key_element(n, at + 2u, column), s[2]);
            s[3] = dot8(c, key_element(n, at + 3u, column), s[3]);
            s[4] = dot8(c, key_element(n, at + 4u, column), s[4]);
            s[5] = dot8(c, key_element(n, at + 5u, column), s[5]);
            s[6] = dot8(c, key_element(n, at + 6u, column), s[6]);
            s[7] = dot8(c, key_element(n, at + 7u, column), s[7]);
        }
        if !plain || at + 8u > keys {
            for (var j = 0u; j < 8u; j = j + 1u) {
                s[j] = vec4f(adjusted(s[j].x, n, head, rows.x, at + j), adjusted(s[j].y, n, head, rows.y, at + j),
                    adjusted(s[j].z, n, head, rows.z, at + j), adjusted(s[j].w, n, head, rows.w, at + j));
            }
        }
        let new_top = max(max(max(max(top, s[0]), max(s[1], s[2])), max(max(s[3], s[4]), max(s[5], s[6]))), s[7]);
        total = total * exp(top - new_top);
        top = new_top;
        for (var j = 0u; j < 8u; j = j + 1u) {
            total = total + exp(s[j] - top);
        }
    }
    put_statistics(n, head, rows.x, top.x, total.x);
    put_statistics(n, head, rows.y, top.y, total.y);
    put_statistics(n, head, rows.z, top.z, total.z);
    put_statistics(n, head, rows.w, top.w, total.w);
}
