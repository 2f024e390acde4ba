// group_apply: y = activate((x - mean) * gain + offset) by channel, the last part of a group norm
//   a       [N, HW, in_a]  Elem   the first channels of x
//   b       [N, HW, in_b]  Elem   the rest; in_b may be 0
//   affine  [N, 3, C]      f32    mean, gain, offset; C = in_a + in_b
//   y       [N, HW, C]     Elem
// One workgroup computes WG elements. One pass over memory.
struct Params { len: u32, pixels: u32, in_a: u32, in_b: u32, act: u32, strip: u32, runs: u32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> a: array<Elem>;      // [N, HW, in_a]
@group(0) @binding(2) var<storage, read_write> b: array<Elem>;      // [N, HW, in_b]
@group(0) @binding(3) var<storage, read_write> affine: array<f32>;  // [N, 3, C]
@group(0) @binding(4) var<storage, read_write> y: array<Elem>;      // [N, HW, C]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * WG + lane;
    if i >= p.len {
        return;
    }
    let channels = p.in_a + p.in_b;
    let row = i / channels;
    let c = i - row * channels;
    var x: f32;
    if c < p.in_a {
        x = f32(a[row * p.in_a + c]);
    } else {
        x = f32(b[row * p.in_b + c - p.in_a]);
    }
    let at = row / p.pixels * 3u * channels + c;
    y[i] = Elem(activate((x - affine[at]) * affine[at + channels] + affine[at + 2u * channels], p.act));
}
