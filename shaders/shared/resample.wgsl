// resample: which input coordinates an output coordinate of a resized picture reads, and their weights. Needs the
// uniform's members mode, align_corners, antialias and cubic_a.
struct Params {
    height: u32, width: u32, out_height: u32, out_width: u32,
    channels: u32, len: u32, mode: u32, align_corners: u32, antialias: u32, cubic_a: f32,
}

@group(0) @binding(0) var<uniform> p: Params;

const NEAREST: u32 = 0u;
const LINEAR: u32 = 1u;
const CUBIC: u32 = 2u;
const AREA: u32 = 3u;

// Taps of one output coordinate: first input coordinate (may lie outside), their number, the centre they are
// weighed about, the kernel's stretch, and the sum of weights.
struct Axis { first: i32, count: i32, centre: f32, stretch: f32, total: f32 }

fn weight(distance: f32) -> f32 {
    let d = abs(distance);
    if p.mode == LINEAR {
        return max(1.0 - d, 0.0);
    }
    let a = p.cubic_a;
    if d <= 1.0 {
        return ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0;
    }
    if d < 2.0 {
        return ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a;
    }
    return 0.0;
}

// Weight of tap i of an axis, before division by the total.
fn tap_weight(axis: Axis, i: i32) -> f32 {
    if p.mode == NEAREST || p.mode == AREA {
        return 1.0;
    }
    return weight((f32(axis.first + i) - axis.centre) / axis.stretch);
}

fn axis(o: u32, size: u32, out_size: u32) -> Axis {
    if p.mode == NEAREST {
        return Axis(i32(o * size / out_size), 1, 0.0, 1.0, 1.0);
    }
    if p.mode == AREA {
        let s = size / out_size;
        return Axis(i32(o * s), i32(s), 0.0, 1.0, f32(s));
    }
    let radius = select(1.0, 2.0, p.mode == CUBIC);
    var centre = 0.0;
    if p.align_corners != 0u {
        centre = f32(o) * f32(size - 1u) / f32(max(out_size, 2u) - 1u);
    } else {
        centre = (f32(o) + 0.5) * (f32(size) / f32(out_size)) - 0.5;
    }
    if p.mode == LINEAR && p.antialias == 0u {
        centre = max(centre, 0.0);
    }
    var result = Axis(0, 0, centre, 1.0, 1.0);
    if p.antialias == 0u {
        result.first = i32(floor(centre)) - i32(radius) + 1;
        result.count = 2 * i32(radius);
        return result;
    }
    result.stretch = max(f32(size) / f32(out_size), 1.0);
    let support = radius * result.stretch;
    result.first = max(i32(centre - support + 1.0), 0);
    result.count = min(i32(centre + support + 1.0), i32(size)) - result.first;
    result.total = 0.0;
    for (var i = 0; i < result.count; i = i + 1) {
        result.total = result.total + tap_weight(result, i);
    }
    return result;
}
