// group_slopes: what the gradient of a group norm is made of, of strips of a picture's pixels: of each group
//   y[n, s, group] = (Σ gain g, Σ gain g d),  g = dy activate'(d gain + offset),  d = x - mean
//   a       [N, HW, in_a]            Elem   the first channels of x; in_a is a multiple of 4
//   b       [N, HW, in_b]            Elem   the rest; in_b is a multiple of 4, or 0
//   affine  [N, 3, C]                f32    mean, gain, offset; C = in_a + in_b
//   dy      [N, HW, C]               Elem
//   y       [N, strips, groups, 2]   f32
// One workgroup computes the groups of a run of channels over a strip of pixels (shared/group_quads.wgsl), in one pass
// over memory; invocations come together through workgroup memory, as many at a group as the workgroup has for each.
struct Params { pixels: u32, in_a: u32, in_b: u32, groups: u32, strip: u32, runs: u32, activation: u32 }

override WG: u32 = 256u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> a: array<vec4<Elem>>;   // [N, HW, in_a]
@group(0) @binding(2) var<storage, read_write> b: array<vec4<Elem>>;   // [N, HW, in_b]
@group(0) @binding(3) var<storage, read_write> affine: array<vec4f>;   // [N, 3, C]
@group(0) @binding(4) var<storage, read_write> dy: array<vec4<Elem>>;  // [N, HW, C]
@group(0) @binding(5) var<storage, read_write> y: array<f32>;          // [N, strips, groups, 2]

var<workgroup> plain: array<vec4f, WG>;
var<workgroup> by_distance: array<vec4f, WG>;
var<workgroup> sums: array<vec2f, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let at = place(group, lane);
    let quads = (p.in_a + p.in_b) / 4u;
    let map = group.z * 3u * quads + at.quad;
    let mean = affine[map];
    let gain = affine[map + quads];
    let offset = affine[map + 2u * quads];
    var s = vec4f();
    var t = vec4f();
    for (var i = 0u; i < at.visits; i = i + 1u) {
        var x: vec4f;
        if at.in_b {
            x = vec4f(b[at.at + i * at.stride]);
        } else {
            x = vec4f(a[at.at + i * at.stride]);
        }
        let d = x - mean;
        let g = vec4f(dy[at.out + i * at.out_stride]) * slope_of(d * gain + offset, p.activation);
        s = s + g;
        t = t + g * d;
    }
    plain[lane] = s * gain;
    by_distance[lane] = t * gain;
    workgroupBarrier();

    // Of the workgroup's groups, in turn for as many invocations each.
    let groups = p.groups / p.runs;
    let width = (p.in_a + p.in_b) / p.groups;
    let lanes = 1u << firstLeadingBit(WG / groups);
    let member = lane & (lanes - 1u);
    let own = lane / lanes;
    let end = select(0u, own * width + width, own < groups);
    var sum = vec2f();
    for (var row = 0u; row < min(at.step, at.pixels); row = row + 1u) {
        for (var c = own * width + member; c < end; c = c + lanes) {
            let i = row * at.columns + c / 4u;
            sum = sum + vec2f(plain[i][c % 4u], by_distance[i][c % 4u]);
        }
    }
    sums[lane] = sum;
    workgroupBarrier();
    for (var apart = lanes / 2u; apart > 0u; apart = apart / 2u) {
        if member < apart {
            sums[lane] = sums[lane] + sums[lane + apart];
        }
        workgroupBarrier();
    }
    if member == 0u && own < groups {
        let to = ((group.z * grid.x + group.x) * p.groups + group.y * groups + own) * 2u;
        y[to] = sums[lane].x;
        y[to + 1u] = sums[lane].y;
    }
}
