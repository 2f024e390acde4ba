// magnitude: |x̂₀| of an element as bits, which order as the numbers do, since none is negative. Needs the file's x,
// out, lead and numbers, and shared/predict.wgsl.

// Of element `i` of picture `b`.
fn magnitude(b: u32, i: u32) -> u32 {
    let at = i / p.channels * p.out_channels + i % p.channels;
    let stride = p.item / p.channels * p.out_channels;
    var o = f32(out[b * stride + at]);
    if p.guided != 0u {
        o = guide(o, f32(out[(p.batch + b) * stride + at]), numbers[0]);
    }
    var x0 = linear(x[b * p.item + i], o, numbers[1], numbers[2]);
    if p.kept != 0u {
        let known = p.known_at + (b * p.item + i) / p.channels * (p.channels + 1u);
        x0 = keep(x0, lead[known + i % p.channels], lead[known + p.channels]);
    }
    return bitcast<u32>(abs(x0));
}
