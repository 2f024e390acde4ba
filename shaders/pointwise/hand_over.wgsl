// hand_over: a stage's pictures as the next stage's network takes them
//   kind 0: y = x    1: clamped to [-1, 1]    2: r(127.5 (x + 1))/127.5 - 1 with r to the nearest whole number, halves
//   to even    3: the same with r down, within bytes
//   x  [N]  f32
//   y  [N]  Elem
// One workgroup computes WG elements. One pass over memory.
struct Params { len: u32, kind: u32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;  // [N]
@group(0) @binding(2) var<storage, read_write> y: array<Elem>; // [N]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * WG + lane;
    if i >= p.len {
        return;
    }
    var value = x[i];
    let level = (value + 1.0) * 127.5;
    if p.kind == 1u {
        value = clamp(value, -1.0, 1.0);
    } else if p.kind == 2u {
        value = round(level) / 127.5 - 1.0;
    } else if p.kind == 3u {
        value = floor(clamp(level, 0.0, 255.0)) / 127.5 - 1.0;
    }
    y[i] = Elem(value);
}
