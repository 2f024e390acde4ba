// group_walk: how an invocation visits the two inputs of a group norm, a and b side by side, of the file that needs it.

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
