// attention_quads: quads of a head's rows, zeros past its last column. Needs shared/attention.wgsl, and q, k1, v1, k2
// and v2 as quads: columns, strides and offsets are multiples of 4. Rows past the last read the last one's.

fn query_quad(n: u32, head: u32, at: u32, quad: u32) -> vec4<Elem> {
    if quad >= p.head_dim / 4u {
        return vec4<Elem>();
    }
    let row = n * p.queries + min(at, p.queries - 1u);
    return q[(row * p.q_stride + p.q_offset + head * p.head_dim) / 4u + quad];
}

fn key_quad(n: u32, head: u32, at: u32, quad: u32) -> vec4<Elem> {
    if quad >= p.head_dim / 4u {
        return vec4<Elem>();
    }
    let row = min(at, p.keys1 + p.keys2 - 1u);
    if row < p.keys1 {
        return k1[((n * p.keys1 + row) * p.k1_stride + p.k1_offset + head * p.head_dim) / 4u + quad];
    }
    return k2[((n * p.keys2 + row - p.keys1) * p.k2_stride + p.k2_offset + head * p.head_dim) / 4u + quad];
}

fn value_quad(n: u32, head: u32, at: u32, quad: u32) -> vec4<Elem> {
    if quad >= p.head_dim / 4u {
        return vec4<Elem>();
    }
    let row = min(at, p.keys1 + p.keys2 - 1u);
    if row < p.keys1 {
        return v1[((n * p.keys1 + row) * p.v1_stride + p.v1_offset + head * p.head_dim) / 4u + quad];
    }
    return v2[((n * p.keys2 + row - p.keys1) * p.v2_stride + p.v2_offset + head * p.head_dim) / 4u + quad];
}

fn put_quad(n: u32, head: u32, at: u32, quad: u32, value: vec4f) {
    if at < p.queries && quad < p.head_dim / 4u {
        y[((n * p.queries + at) * p.heads + head) * p.head_dim / 4u + quad] = vec4<Elem>(value);
    }
}
