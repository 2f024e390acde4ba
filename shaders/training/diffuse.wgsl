// diffuse: the forward process and what a network learns to say of it
//   x_t = c[n, 0] x0 + c[n, 1] noise,  goal = c[n, 2] x0 + c[n, 3] noise
//   x0, noise, x_t, goal  [N, item]  f32
//   c                       [N, 4]     f32
// One invocation computes one element of both. One pass over memory.
struct Params { len: u32, item: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x0: array<f32>;             // [N, item]
@group(0) @binding(2) var<storage, read> noise: array<f32>;          // [N, item]
@group(0) @binding(3) var<storage, read> c: array<vec4<f32>>;        // [N]
@group(0) @binding(4) var<storage, read_write> x_t: array<f32>;      // [N, item]
@group(0) @binding(5) var<storage, read_write> goal: array<f32>;  // [N, item]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * 64u + lane;
    if i >= p.len {
        return;
    }
    let k = c[i / p.item];
    x_t[i] = k.x * x0[i] + k.y * noise[i];
    goal[i] = k.z * x0[i] + k.w * noise[i];
}
