// attention: a key's element, and what is added to a score. Needs the bindings of shaders/attention.wgsl and
// BOTH: false where only the second keys are given, which spares the question at every element.
struct Params {
    heads: u32, head_dim: u32, queries: u32, keys1: u32, keys2: u32,
    q_stride: u32, k1_stride: u32, k1_offset: u32, v1_stride: u32, v1_offset: u32,
    k2_stride: u32, k2_offset: u32, v2_stride: u32, v2_offset: u32, q_offset: u32,
    has_bias: u32, has_mask: u32, causal: u32, scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;

const LOWEST: f32 = -3.0e38; // a masked score: no infinity, which WGSL lets an implementation assume away
const HIDDEN: f32 = -3.4e38; // the score of a key that the query does not see or that does not exist: no weight

// Rows past the last key read the last one's.
fn key_element(n: u32, at: u32, column: u32) -> f32 {
    let row = min(at, p.keys1 + p.keys2 - 1u);
    if BOTH && row < p.keys1 {
        return f32(k1[(n * p.keys1 + row) * p.k1_stride + p.k1_offset + column]);
    }
    return f32(k2[(n * p.keys2 + row - p.keys1) * p.k2_stride + p.k2_offset + column]);
}

fn adjusted(score: f32, n: u32, head: u32, query: u32, at: u32) -> f32 {
    let keys = p.keys1 + p.keys2;
    if at >= keys || (p.causal != 0u && at > query) {
        return HIDDEN;
    }
    var s = score;
    if p.has_bias != 0u {
        s = s + f32(bias[(min(query, p.queries - 1u) * keys + at) * p.heads + head]);
    }
    if p.has_mask != 0u && at < p.keys1 {
        s = s + mask[n * p.keys1 + at];
    }
    return max(s, LOWEST);
}
