// group_apply_quads: y = activate((x - mean) * gain + offset) by channel, as group_apply.wgsl, in quads of channels
//   a       [N, HW, in_a]  Elem   the first channels of x; in_a is a multiple of 4
//   b       [N, HW, in_b]  Elem   the rest; in_b is a multiple of 4, or 0
//   affine  [N, 3, C]      f32    mean, gain, offset; C = in_a + in_b
//   y       [N, HW, C]     Elem
// One workgroup computes a run of channels of a strip of pixels; an invocation keeps to a quad of channels and reads
// its map once. One pass over memory.
struct Params { len: u32, pixels: u32, in_a: u32, in_b: u32, act: u32, strip: u32, runs: u32 }

override WG: u32 = 256u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> a: array<vec4<Elem>>;   // [N, HW, in_a]
@group(0) @binding(2) var<storage, read_write> b: array<vec4<Elem>>;   // [N, HW, in_b]
@group(0) @binding(3) var<storage, read_write> affine: array<vec4f>;   // [N, 3, C]
@group(0) @binding(4) var<storage, read_write> y: array<vec4<Elem>>;   // [N, HW, C]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = place(group, lane);
    let quads = (p.in_a + p.in_b) / 4u;
    let map = group.z * 3u * quads + at.quad;
    let mean = affine[map];
    let gain = affine[map + quads];
    let offset = affine[map + 2u * quads];
    for (var i = 0u; i < at.visits; i = i + 1u) {
        var x: vec4f;
        if at.in_b {
            x = vec4f(b[at.at + i * at.stride]);
        } else {
            x = vec4f(a[at.at + i * at.stride]);
        }
        let v = (x - mean) * gain + offset;
        y[at.out + i * at.out_stride] = vec4<Elem>(vec4f(
            activate(v.x, p.act), activate(v.y, p.act), activate(v.z, p.act), activate(v.w, p.act)));
    }
}
