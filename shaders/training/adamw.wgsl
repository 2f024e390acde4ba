// adamw: one step of AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) and of the weights' moving average, in place
//   g = factor gradient,  w -= decay w,  m += (1 - beta1)(g - m),  v += (1 - beta2)(g² - v)
//   w -= rate m / (√v second + eps),  e += (1 - average)(w - e)
//   gradient    [len]  f32
//   control     [8]    f32   optimiser_control.wgsl
//   w, m, v, e  [len]  f32   weights, moments, average; nothing moves where the step is left out
// One invocation computes one element of each. One pass over memory.
struct Params { len: u32, beta1: f32, beta2: f32, eps: f32, decays: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> gradient: array<f32>;  // [len]
@group(0) @binding(2) var<storage, read_write> control: array<f32>;   // [8]
@group(0) @binding(3) var<storage, read_write> w: array<f32>;         // [len]
@group(0) @binding(4) var<storage, read_write> m: array<f32>;         // [len]
@group(0) @binding(5) var<storage, read_write> v: array<f32>;         // [len]
@group(0) @binding(6) var<storage, read_write> e: array<f32>;         // [len]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * 64u + lane;
    if i >= p.len || control[0] == 0.0 {
        return;
    }
    let g = control[1] * gradient[i];
    var weight = w[i];
    if p.decays != 0u {
        weight = weight - control[4] * weight;
    }
    let first = m[i] + (1.0 - p.beta1) * (g - m[i]);
    let second = p.beta2 * v[i] + (1.0 - p.beta2) * g * g;
    weight = weight - control[2] * first / (sqrt(second) * control[3] + p.eps);
    w[i] = weight;
    m[i] = first;
    v[i] = second;
    e[i] = e[i] + (1.0 - control[5]) * (weight - e[i]);
}
