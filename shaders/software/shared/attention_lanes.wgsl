// attention_lanes: attention without workgroup memory or barriers, for adapters whose subgroups are the 8 lanes of a
// processor's vector. An invocation owns 4 queries; a subgroup reads 8 columns of a key or value at once and broadcasts
// them. Keys go by blocks of BLOCK: scores, their exponentials, then the sums of values by 16 columns, with a running
// maximum and sum from block to block. Needs shared/attention.wgsl, attention_value.wgsl, spread.wgsl
// and the constants
// DIM: head_dim <= DIM, a multiple of 16
// BLOCK: a multiple of 8
// WG: the workgroup's size

fn attend_lanes(group: vec3<u32>, index: u32, lane: u32) {
    let head = group.y;
    let n = group.z;
    let keys = p.keys1 + p.keys2;
    let query = vec4u(0u, WG, 2u * WG, 3u * WG) + group.x * 4u * WG + index;
    let row_q = (n * p.queries + min(query, vec4u(p.queries - 1u))) * p.q_stride + p.q_offset + head * p.head_dim;
    // One array of scalars for each query: their common index is taken apart once.
    var q0: array<f32, DIM>; var q1: array<f32, DIM>; var q2: array<f32, DIM>; var q3: array<f32, DIM>;
    var y0: array<f32, DIM>; var y1: array<f32, DIM>; var y2: array<f32, DIM>; var y3: array<f32, DIM>;
    var s0: array<f32, BLOCK>; var s1: array<f32, BLOCK>; var s2: array<f32, BLOCK>; var s3: array<f32, BLOCK>;
    for (var i = 0u; i < p.head_dim; i = i + 1u) {
        q0[i] = p.scale * f32(q[row_q.x + i]);
        q1[i] = p.scale * f32(q[row_q.y + i]);
        q2[i] = p.scale * f32(q[row_q.z + i]);
        q3[i] = p.scale * f32(q[row_q.w + i]);
    }
    var top = vec4f(LOWEST);
    var total = vec4f(0.0);
    for (var first = 0u; first < keys; first = first + BLOCK) {
        let end = min(BLOCK, keys - first);
        var new_top = top;
        for (var k = 0u; k < end; k = k + 8u) {
            var s = array<vec4f, 8>();
            let at = first + k;
            for (var i = 0u; i < p.head_dim; i = i + 8u) {
                var c: array<vec4f, 8>;
                for (var j = 0u; j < 8u; j = j + 1u) {
                    c[j] = vec4f(q0[i + j], q1[i + j], q2[i + j], q3[i + j]);
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
            for (var j = 0u; j < 8u; j = j + 1u) {
                s0[k + j] = s[j].x;
                s1[k + j] = s[j].y;
                s2[k + j] = s[j].z;
                s3[k + j] = s[j].w;
                new_top = max(new_top, s[j]);
            }
        }
        if p.has_bias + p.has_mask + p.causal + end % 8u > 0u {
            new_top = top;
            for (var k = 0u; k < (end + 7u) / 8u * 8u; k = k + 1u) {
                let at = first + k;
                var s = vec4f(s0[k], s1[k], s2[k], s3[k]);
                s = vec4f(adjusted(s.x, n, head, query.x, at), adjusted(s.y, n, head, query.y, at),
                    adjusted(s.z, n, head, query.z, at), adjusted(s.w, n, head, query.w, at));
                s0[k] = s.x;
                s1[k] = s.y;
                s2[k] = s.z;
                s3[k] = s.w;
                new_top = max(new_top, s);
            }
        }
        let keep = exp(top - new_top);
        top = new_top;
        total = total * keep;
        for (var k = 0u; k < end; k = k + 2u) {
            let e0 = exp(vec4f(s0[k], s1[k], s2[k], s3[k]) - top);
            let e1 = exp(vec4f(s0[k + 1u], s1[k + 1u], s2[k + 1u], s3[k + 1u]) - top);
            s0[k] = e0.x;
            s1[k] = e0.y;
            s2[k] = e0.z;
            s3[k] = e0.w;
            s0[k + 1u] = e1.x;
            s1[k + 1u] = e1.y;
            s2[k + 1u] = e1.z;
            s3[k + 1u] = e1.w;
            total = total + e0 + e1;
        }
        for (var i = 0u; i < p.head_dim; i = i + 16u) {
            var a = array<vec4f, 8>();
            var b = array<vec4f, 8>();
            let column0 = head * p.head_dim + min(i + lane, p.head_dim - 1u);
            let column1 = head * p.head_dim + min(i + 8u + lane, p.head_dim - 1u);
            for (var k = 0u; k < end; k = k + 1u) {
                let e0 = vec4f(s0[k], s1[k], s2[k], s3[k]);
                a = add8(a, e0, value_element(n, first + k, column0));
                b = add8(b, e0, value_element(n, first + k, column1));
            }
            for (var j = 0u; j < 8u; j = j + 1u) {
                y0[i + j] = y0[i + j] * keep.x + a[j].x;
                y0[i + 8u + j] = y0[i + 8u + j] * keep.x + b[j].x;
                y1[i + j] = y1[i + j] * keep.y + a[j].y;
                y1[i + 8u + j] = y1[i + 8u + j] * keep.y + b[j].y;
                y2[i + j] = y2[i + j] * keep.z + a[j].z;
                y2[i + 8u + j] = y2[i + 8u + j] * keep.z + b[j].z;
                y3[i + j] = y3[i + j] * keep.w + a[j].w;
                y3[i + 8u + j] = y3[i + 8u + j] * keep.w + b[j].w;
            }
        }
    }
    let row_y = (n * p.queries + query) * p.heads * p.head_dim + head * p.head_dim;
    for (var i = 0u; i < p.head_dim; i = i + 1u) {
        if query.x < p.queries {
            y[row_y.x + i] = Elem(y0[i] / total.x);
        }
        if query.y < p.queries {
            y[row_y.y + i] = Elem(y1[i] / total.y);
        }
        if query.z < p.queries {
            y[row_y.z + i] = Elem(y2[i] / total.z);
        }
        if query.w < p.queries {
            y[row_y.w + i] = Elem(y3[i] / total.w);
        }
    }
}
