// attention_value: a value's element, as shared/attention_key.wgsl's of a key.

fn value_element(n: u32, at: u32, column: u32) -> f32 {
    let row = min(at, p.keys1 + p.keys2 - 1u);
    if BOTH && row < p.keys1 {
        return f32(v1[(n * p.keys1 + row) * p.v1_stride + p.v1_offset + column]);
    }
    return f32(v2[(n * p.keys2 + row - p.keys1) * p.v2_stride + p.v2_offset + column]);
}
