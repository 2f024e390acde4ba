// steer: adds a guidance's direction d to what leads a step: lead_k <- keep lead_k + f_k d for the four terms k
//   d       [B, HW, C]    f32
//   factors [8]           f32   f_0 .. f_3, keep: 0 begins anew, 1 adds
//   lead    [4, B, HW, C] f32   updated in place; see step.wgsl, what lies behind it is not touched
// One workgroup computes WG elements of each term. One pass over memory.
struct Params { len: u32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> d: array<f32>;       // [B, HW, C]
@group(0) @binding(2) var<storage, read_write> factors: array<f32>; // [8]
@group(0) @binding(3) var<storage, read_write> lead: array<f32>;    // [4, B, HW, C] and more

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * WG + lane;
    if i >= p.len {
        return;
    }
    for (var k = 0u; k < 4u; k = k + 1u) {
        var sum = factors[k] * d[i];
        if factors[4] != 0.0 {
            sum = lead[k * p.len + i] + sum;
        }
        lead[k * p.len + i] = sum;
    }
}
