// attention_key: a key's element. Needs shared/attention.wgsl, the bindings of shaders/attention.wgsl and
// BOTH: false where only the second keys are given, which spares the question at every element.

// Rows past the last key read the last one's.
fn key_element(n: u32, at: u32, column: u32) -> f32 {
    let row = min(at, p.keys1 + p.keys2 - 1u);
    if BOTH && row < p.keys1 {
        return f32(k1[(n * p.keys1 + row) * p.k1_stride + p.k1_offset + column]);
    }
    return f32(k2[(n * p.keys2 + row - p.keys1) * p.k2_stride + p.k2_offset + column]);
}
