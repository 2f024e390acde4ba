// group_moments: count, mean and Σ (x - mean)² of each group of channels, of each strip of a picture's pixels: the
// first part of a group norm
//   a  [N, HW, in_a]             Elem   the first channels of x
//   b  [N, HW, in_b]             Elem   the rest; in_b may be 0
//   y  [N, strips, groups, 3]    f32
// One workgroup computes one (n, strip, group). Two passes over it: mean, squares. An invocation keeps to a channel and
// strides over the pixels, as in group_norm.wgsl.
struct Params { pixels: u32, in_a: u32, in_b: u32, groups: u32, strip: u32, runs: u32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> a: array<Elem>;  // [N, HW, in_a]
@group(0) @binding(2) var<storage, read_write> b: array<Elem>;  // [N, HW, in_b]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [N, strips, groups, 3]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let n = group.z;
    let start = group.y * p.strip;
    let part = span(group.x, vec2<u32>(start, min(start + p.strip, p.pixels)), lane);
    let found = moments(n, part, lane);
    if lane == 0u {
        let at = ((n * grid.y + group.y) * p.groups + group.x) * 3u;
        y[at] = part.count;
        y[at + 1u] = found.mean;
        y[at + 2u] = found.squares;
    }
}
