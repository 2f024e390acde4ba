// group_walk: how an invocation visits the two inputs of a group norm, a and b side by side, of the file that needs it;
// and a group's moments.

// The pixels an invocation visits of a channel: x lies at `at`, then `stride` elements apart, in `b` if in_b.
struct Walk { in_b: bool, at: u32, stride: u32 }

fn walk(n: u32, c: u32, first: u32, step: u32) -> Walk {
    if c < p.in_a {
        return Walk(false, (n * p.pixels + first) * p.in_a + c, step * p.in_a);
    }
    return Walk(true, (n * p.pixels + first) * p.in_b + c - p.in_a, step * p.in_b);
}

// Four values from visit `i` on: an iteration's own cost counts on slow devices.
fn visit(w: Walk, i: u32) -> vec4<f32> {
    let at = w.at + i * w.stride;
    if w.in_b {
        return vec4<f32>(f32(b[at]), f32(b[at + w.stride]), f32(b[at + 2u * w.stride]), f32(b[at + 3u * w.stride]));
    }
    return vec4<f32>(f32(a[at]), f32(a[at + w.stride]), f32(a[at + 2u * w.stride]), f32(a[at + 3u * w.stride]));
}

fn visit_one(w: Walk, i: u32) -> f32 {
    if w.in_b {
        return f32(b[w.at + i * w.stride]);
    }
    return f32(a[w.at + i * w.stride]);
}

// An invocation's part of a group over the pixels of a range: from channel `own` to `end`, WG apart, of each the
// pixels from `start` on, `step` apart: `visits` of them, `whole` by fours. Narrow groups: `step` pixels at once, some
// lanes idle where the width does not divide WG.
struct Span { count: f32, step: u32, start: u32, visits: u32, whole: u32, own: u32, end: u32 }

fn span(group: u32, range: vec2<u32>, lane: u32) -> Span {
    let width = (p.in_a + p.in_b) / p.groups;
    let step = max(WG / width, 1u);
    let first = lane / width;
    let start = select(range.y, min(range.x + first, range.y), first < step);
    let visits = (range.y + step - 1u - start) / step;
    let own = group * width;
    let count = f32(width) * f32(range.y - range.x);
    return Span(count, step, start, visits, visits & ~3u, own + lane % width, own + width);
}

// A group's mean and Σ (x - mean)², in two passes.
struct Moments { mean: f32, squares: f32 }

fn moments(n: u32, part: Span, lane: u32) -> Moments {
    var sum = 0.0;
    for (var c = part.own; c < part.end; c = c + WG) {
        let w = walk(n, c, part.start, part.step);
        var s = vec4<f32>();
        for (var i = 0u; i < part.whole; i = i + 4u) {
            s = s + visit(w, i);
        }
        for (var i = part.whole; i < part.visits; i = i + 1u) {
            s.x = s.x + visit_one(w, i);
        }
        sum = sum + (s.x + s.y) + (s.z + s.w);
    }
    let mean = workgroup_sum(sum, lane) / part.count;

    var squares = 0.0;
    for (var c = part.own; c < part.end; c = c + WG) {
        let w = walk(n, c, part.start, part.step);
        var s = vec4<f32>();
        for (var i = 0u; i < part.whole; i = i + 4u) {
            let d = visit(w, i) - mean;
            s = s + d * d;
        }
        for (var i = part.whole; i < part.visits; i = i + 1u) {
            let d = visit_one(w, i) - mean;
            s.x = s.x + d * d;
        }
        squares = squares + (s.x + s.y) + (s.z + s.w);
    }
    return Moments(mean, workgroup_sum(squares, lane));
}
