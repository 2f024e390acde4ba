// attention: the uniform, and what is added to a score. Needs the bindings of shaders/attention.wgsl.
struct Params {
    heads: u32, head_dim: u32, queries: u32, keys1: u32, keys2: u32,
    q_stride: u32, k1_stride: u32, k1_offset: u32, v1_stride: u32, v1_offset: u32,
    k2_stride: u32, k2_offset: u32, v2_stride: u32, v2_offset: u32, q_offset: u32,
    has_bias: u32, has_mask: u32, causal: u32, scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;

const LOWEST: f32 = -3.0e38; // a masked score: no infinity, which WGSL lets an implementation assume away
const HIDDEN: f32 = -3.4e38; // the score of a key that the query does not see or that does not exist: no weight

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
