// sum_axis: y[o, i] = scale Σ_k x[o, k, i]; or, spread, y[o, k, i] = scale x[o, i]
//   x  [outer, count, inner], spread [outer, inner]  Elem
//   y  [outer, inner], spread [outer, count, inner]  Elem
// One invocation computes one element. x is read once; spread, by each element it goes to.
struct Params { len: u32, count: u32, inner: u32, spread: u32, scale: f32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<Elem>;  // [outer, count, inner] or [outer, inner]
@group(0) @binding(2) var<storage, read_write> y: array<Elem>;  // [outer, inner] or [outer, count, inner]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * WG + lane;
    if i >= p.len {
        return;
    }
    let row = i / p.inner;
    let col = i - row * p.inner;
    if p.spread != 0u {
        y[i] = Elem(f32(x[row / p.count * p.inner + col]) * p.scale);
        return;
    }
    var at = row * p.count * p.inner + col;
    // Four sums, so that four reads are under way at a time.
    var sum = vec4<f32>();
    for (var k = 0u; k < p.count / 4u; k = k + 1u) {
        sum = sum + vec4<f32>(
            f32(x[at]), f32(x[at + p.inner]), f32(x[at + 2u * p.inner]), f32(x[at + 3u * p.inner]));
        at = at + 4u * p.inner;
    }
    for (var k = p.count & ~3u; k < p.count; k = k + 1u) {
        sum.x = sum.x + f32(x[at]);
        at = at + p.inner;
    }
    y[i] = Elem(((sum.x + sum.y) + (sum.z + sum.w)) * p.scale);
}
