// resample_gradient: dx = the transpose of resample.wgsl's weights times dy
//   dy  [N, OH, OW, C]  Elem  the resized picture's gradient
//   dx  [N, H, W, C]    Elem
// A pixel sums what every output that reads it (shared/resample.wgsl) hands back: a range of rows and columns about
// where the pixel went, which at the picture's edges goes on to the end, because the edge is repeated.
// One workgroup computes WG elements. Each element of dy is read by every pixel it reads.
// The uniform is that of shared/resample.wgsl.

override WG: u32 = 64u;

@group(0) @binding(1) var<storage, read_write> dy: array<Elem>;  // [N, OH, OW, C]
@group(0) @binding(2) var<storage, read_write> dx: array<Elem>;  // [N, H, W, C]

// All outputs that may read input coordinate i: from x up to y.
fn readers(i: u32, size: u32, out_size: u32) -> vec2<u32> {
    if p.mode == NEAREST {
        return vec2<u32>((i * out_size + size - 1u) / size, ((i + 1u) * out_size + size - 1u) / size);
    }
    if p.mode == AREA {
        let o = i / (size / out_size);
        return vec2<u32>(o, min(o + 1u, out_size));
    }
    var step = f32(size) / f32(out_size);
    var start = 0.5 * step - 0.5;
    if p.align_corners != 0u {
        step = f32(size - 1u) / f32(max(out_size, 2u) - 1u);
        start = 0.0;
    }
    // The kernel's support, and one more for rounding.
    let reach = select(1.0, 2.0, p.mode == CUBIC) * select(1.0, max(step, 1.0), p.antialias != 0u) + 1.0;
    let about = f32(i) - start;
    var range = vec2<f32>(floor((about - reach) / max(step, 1e-6)), ceil((about + reach) / max(step, 1e-6)) + 1.0);
    range = clamp(range, vec2<f32>(0.0), vec2<f32>(f32(out_size)));
    let first = select(u32(range.x), 0u, i == 0u);
    return vec2<u32>(first, select(u32(range.y), out_size, i + 1u == size));
}

// Weight of input coordinate i in output coordinate o.
fn weight_of(i: u32, o: u32, size: u32, out_size: u32) -> f32 {
    if p.mode == NEAREST {
        return 1.0;
    }
    if p.mode == AREA {
        return 1.0 / f32(size / out_size);
    }
    let taps = axis(o, size, out_size);
    if p.antialias != 0u {
        let at = i32(i) - taps.first;
        return select(0.0, tap_weight(taps, at) / taps.total, at >= 0 && at < taps.count);
    }
    var sum = 0.0;
    for (var at = 0; at < taps.count; at = at + 1) {
        sum = sum + select(0.0, tap_weight(taps, at), clamp(taps.first + at, 0, i32(size) - 1) == i32(i));
    }
    return sum;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, grid) * WG + lane;
    if index >= p.len {
        return;
    }
    let c = index % p.channels;
    let pixel = index / p.channels;
    let ix = pixel % p.width;
    let iy = pixel / p.width % p.height;
    let n = pixel / (p.width * p.height);
    let rows = readers(iy, p.height, p.out_height);
    let cols = readers(ix, p.width, p.out_width);
    var sum = 0.0;
    for (var oy = rows.x; oy < rows.y; oy = oy + 1u) {
        var line = 0.0;
        for (var ox = cols.x; ox < cols.y; ox = ox + 1u) {
            let at = ((n * p.out_height + oy) * p.out_width + ox) * p.channels + c;
            line = line + weight_of(ix, ox, p.width, p.out_width) * f32(dy[at]);
        }
        sum = sum + weight_of(iy, oy, p.height, p.out_height) * line;
    }
    dx[index] = Elem(sum);
}
