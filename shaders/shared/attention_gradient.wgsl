// attention_gradient: the weight of a key for a query, once more, from attention_statistics. Needs the bindings of
// attention_query_gradient.wgsl or attention_key_gradient.wgsl.
struct Params {
    heads: u32, head_dim: u32, queries: u32, keys: u32, first_key: u32, all_keys: u32,
    q_stride: u32, q_offset: u32, k_stride: u32, k_offset: u32, v_stride: u32, v_offset: u32,
    has_bias: u32, has_mask: u32, causal: u32, scale: f32, pictures: u32,
}

@group(0) @binding(0) var<uniform> p: Params;

const LOWEST: f32 = -3.0e38; // a masked score, as in the forward

// A row of a picture that may lie past the last.
fn query_row(n: u32, row: u32) -> u32 {
    return n * p.queries + min(row, p.queries - 1u);
}

fn key_row(n: u32, row: u32) -> u32 {
    return n * p.keys + min(row, p.keys - 1u);
}

fn query_element(n: u32, head: u32, row: u32, column: u32) -> f32 {
    return f32(q[query_row(n, row) * p.q_stride + p.q_offset + head * p.head_dim + column]);
}

fn dy_element(n: u32, head: u32, row: u32, column: u32) -> f32 {
    return f32(dy[(query_row(n, row) * p.heads + head) * p.head_dim + column]);
}

fn key_element(n: u32, head: u32, row: u32, column: u32) -> f32 {
    return f32(k[key_row(n, row) * p.k_stride + p.k_offset + head * p.head_dim + column]);
}

fn value_element(n: u32, head: u32, row: u32, column: u32) -> f32 {
    return f32(v[key_row(n, row) * p.v_stride + p.v_offset + head * p.head_dim + column]);
}

// The factors of both products: q or dy of a query's row, k or v of a key's.
fn of_query(second: bool, n: u32, head: u32, row: u32, column: u32) -> f32 {
    if second {
        return dy_element(n, head, row, column);
    }
    return query_element(n, head, row, column);
}

fn of_key(second: bool, n: u32, head: u32, row: u32, column: u32) -> f32 {
    if second {
        return value_element(n, head, row, column);
    }
    return key_element(n, head, row, column);
}

// Largest score, one over the sum of exponentials, and sum of dy y of a query.
fn statistics(n: u32, head: u32, row: u32) -> vec3f {
    let at = (query_row(n, row) * p.heads + head) * 3u;
    return vec3f(stats[at], stats[at + 1u], stats[at + 2u]);
}

// What attention gave a key of a query, from the two rows' product; 0 where the key is hidden or one does not exist.
fn probability(product: f32, n: u32, head: u32, query: u32, key: u32, top: f32, over_total: f32) -> f32 {
    if query >= p.queries || key >= p.keys || (p.causal != 0u && p.first_key + key > query) {
        return 0.0;
    }
    var s = product * p.scale;
    if p.has_bias != 0u {
        s = s + f32(bias[(query * p.all_keys + p.first_key + key) * p.heads + head]);
    }
    if p.has_mask != 0u {
        s = s + mask[n * p.keys + key];
    }
    return exp(max(s, LOWEST) - top) * over_total;
}

// Four rows' probabilities, and the gradients of their products.
struct Weighed { p: vec4f, d: vec4f }
