// group_gradient_apply: y = epilogue(gain g - (level + slope d)), g = dy activate'(d gain + offset), d = x - mean: the
// last part of the gradient of a group norm, of whole quads of channels
//   a        [N, HW, in_a]              Elem   the first channels of x; in_a is a multiple of 4
//   b        [N, HW, in_b]              Elem   the rest; in_b is a multiple of 4, or 0
//   affine   [N, 3, C]                  f32    mean, gain, offset; C = in_a + in_b
//   lines    [N, groups, 2]             f32    level, slope
//   dy, y    [N, HW, C]                 Elem
//   operand  [N HW / operand_rows, C]   Elem
// One workgroup computes a run of channels of a strip of pixels (shared/group_quads.wgsl); an invocation keeps to a
// quad of channels. One pass over memory.
struct Params {
    pixels: u32, in_a: u32, in_b: u32, groups: u32, strip: u32, runs: u32, activation: u32,
    act: u32, operand_op: u32, operand_rows: u32, scale: f32,
}

override WG: u32 = 256u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> a: array<vec4<Elem>>;        // [N, HW, in_a]
@group(0) @binding(2) var<storage, read_write> b: array<vec4<Elem>>;        // [N, HW, in_b]
@group(0) @binding(3) var<storage, read_write> affine: array<vec4f>;        // [N, 3, C]
@group(0) @binding(4) var<storage, read_write> lines: array<vec2f>;         // [N, groups]: level, slope
@group(0) @binding(5) var<storage, read_write> dy: array<vec4<Elem>>;       // [N, HW, C]
@group(0) @binding(6) var<storage, read_write> operand: array<vec4<Elem>>;  // [N HW / operand_rows, C]
@group(0) @binding(7) var<storage, read_write> y: array<vec4<Elem>>;        // [N, HW, C]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = place(group, lane);
    let quads = (p.in_a + p.in_b) / 4u;
    let map = group.z * 3u * quads + at.quad;
    let mean = affine[map];
    let gain = affine[map + quads];
    let offset = affine[map + 2u * quads];
    let width = (p.in_a + p.in_b) / p.groups;
    let own = vec4u(group.z * p.groups) + (vec4u(0u, 1u, 2u, 3u) + at.quad * 4u) / width;
    let line = array(lines[own.x], lines[own.y], lines[own.z], lines[own.w]);
    let level = vec4f(line[0].x, line[1].x, line[2].x, line[3].x);
    let slope = vec4f(line[0].y, line[1].y, line[2].y, line[3].y);
    let row = group.z * p.pixels + group.x * p.strip + at.row;
    for (var i = 0u; i < at.visits; i = i + 1u) {
        var x: vec4f;
        if at.in_b {
            x = vec4f(b[at.at + i * at.stride]);
        } else {
            x = vec4f(a[at.at + i * at.stride]);
        }
        let d = x - mean;
        let to = at.out + i * at.out_stride;
        let g = vec4f(dy[to]) * slope_of(d * gain + offset, p.activation);
        var other = vec4f();
        if p.operand_op != OPERAND_NONE {
            other = vec4f(operand[operand_row(row + i * at.step, p.operand_rows) * quads + at.quad]);
        }
        y[to] = vec4<Elem>(epilogue_quad(g * gain - (d * slope + level), p.act, p.operand_op, other, p.scale));
    }
}
