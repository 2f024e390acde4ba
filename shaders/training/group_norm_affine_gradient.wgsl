// group_norm_affine_gradient: from a group norm's sums (group_norm_sums.wgsl) the gradients of what is affine in it
//   dweight[c] = Σ_n (1 + scale) s[n, 1, c],  dbias[c] = Σ_n (1 + scale) s[n, 0, c]
//   demb[n, c] = weight s[n, 1, c] + bias s[n, 0, c],  demb[n, C + c] = s[n, 0, c]
//   s                             [N, 2, C]  f32
//   weight, bias, dweight, dbias  [C]        f32
//   emb, demb                     [N, 2 C]   Elem   [scale | shift]; if has_emb
// One invocation computes one channel of all pictures.
struct Params { pictures: u32, channels: u32, has_emb: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> s: array<f32>;        // [N, 2, C]
@group(0) @binding(2) var<storage, read> weight: array<f32>;         // [C]
@group(0) @binding(3) var<storage, read> bias: array<f32>;           // [C]
@group(0) @binding(4) var<storage, read_write> emb: array<Elem>;     // [N, 2 C]
@group(0) @binding(5) var<storage, read_write> dweight: array<f32>;  // [C]
@group(0) @binding(6) var<storage, read_write> dbias: array<f32>;    // [C]
@group(0) @binding(7) var<storage, read_write> demb: array<Elem>;    // [N, 2 C]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let c = linear_group(group, grid) * 64u + lane;
    if c >= p.channels {
        return;
    }
    var sums = vec2<f32>();
    for (var n = 0u; n < p.pictures; n = n + 1u) {
        let at = n * 2u * p.channels + c;
        let plain = s[at];
        let by_h = s[at + p.channels];
        var scale = 1.0;
        if p.has_emb != 0u {
            scale = scale + f32(emb[at]);
            demb[at] = Elem(weight[c] * by_h + bias[c] * plain);
            demb[at + p.channels] = Elem(plain);
        }
        sums = sums + scale * vec2<f32>(by_h, plain);
    }
    dweight[c] = sums.x;
    dbias[c] = sums.y;
}
