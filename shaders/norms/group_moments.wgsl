// group_moments: count, mean and Σ (x - mean)² of each group of channels, of a strip of pixels: a part of a group norm
//   a  [N, HW, in_a]    Elem   the first channels of x
//   b  [N, HW, in_b]    Elem   the rest; in_b may be 0
//   y  [N, groups, 3]   f32
// One workgroup computes one (n, group). Two passes over the group: mean, squares. An invocation keeps to a channel and
// strides over the pixels, as in group_norm.wgsl.
struct Params { pixels: u32, in_a: u32, in_b: u32, groups: u32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> a: array<Elem>;  // [N, HW, in_a]
@group(0) @binding(2) var<storage, read_write> b: array<Elem>;  // [N, HW, in_b]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [N, groups, 3]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let n = group.y;
    let width = (p.in_a + p.in_b) / p.groups;
    let count = f32(width) * f32(p.pixels);
    // Narrow groups: `step` pixels at once, some lanes idle where the width does not divide WG.
    let step = max(WG / width, 1u);
    let first = lane / width;
    let start = select(p.pixels, min(first, p.pixels), first < step);
    let visits = (p.pixels + step - 1u - start) / step;
    let own = group.x * width + lane % width;
    let end = group.x * width + width;
    let whole = visits & ~3u;

    var sum = 0.0;
    for (var c = own; c < end; c = c + WG) {
        let w = walk(n, c, start, step);
        var s = vec4<f32>();
        for (var i = 0u; i < whole; i = i + 4u) {
            s = s + visit(w, i);
        }
        for (var i = whole; i < visits; i = i + 1u) {
            s.x = s.x + visit_one(w, i);
        }
        sum = sum + (s.x + s.y) + (s.z + s.w);
    }
    let mean = workgroup_sum(sum, lane) / count;

    var squares = 0.0;
    for (var c = own; c < end; c = c + WG) {
        let w = walk(n, c, start, step);
        var s = vec4<f32>();
        for (var i = 0u; i < whole; i = i + 4u) {
            let d = visit(w, i) - mean;
            s = s + d * d;
        }
        for (var i = whole; i < visits; i = i + 1u) {
            let d = visit_one(w, i) - mean;
            s.x = s.x + d * d;
        }
        squares = squares + (s.x + s.y) + (s.z + s.w);
    }
    squares = workgroup_sum(squares, lane);
    if lane == 0u {
        let at = (n * p.groups + group.x) * 3u;
        y[at] = count;
        y[at + 1u] = mean;
        y[at + 2u] = squares;
    }
}
