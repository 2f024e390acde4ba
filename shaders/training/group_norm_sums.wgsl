// group_norm_sums: of a group norm (group_norm.wgsl), by picture and channel
//   y[n, 0, c] = Σ g,  y[n, 1, c] = Σ g h,  g = dy activate'(v),  h = (x - mean_g) / sqrt(var_g + eps),
//   v = (h weight + bias) (1 + scale) + shift
//   a             [N, HW, in_a]  Elem   the first channels of x
//   b             [N, HW, in_b]  Elem   the rest; in_b may be 0
//   weight, bias  [C]            f32    C = in_a + in_b
//   emb           [N, 2 C]       Elem   [scale | shift]; read if has_emb
//   dy            [N, HW, C]     Elem
//   y             [N, 2, C]      f32
// One workgroup computes one (n, group), walking as group_norm.wgsl does, then channel by channel. Three passes over
// the group: mean, variance, sums (with dy).
struct Params { pixels: u32, in_a: u32, in_b: u32, groups: u32, has_emb: u32, activation: u32, eps: f32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> a: array<Elem>;    // [N, HW, in_a]
@group(0) @binding(2) var<storage, read_write> b: array<Elem>;    // [N, HW, in_b]
@group(0) @binding(3) var<storage, read> weight: array<f32>;      // [C]
@group(0) @binding(4) var<storage, read> bias: array<f32>;        // [C]
@group(0) @binding(5) var<storage, read_write> emb: array<Elem>;  // [N, 2 C]
@group(0) @binding(6) var<storage, read_write> dy: array<Elem>;   // [N, HW, C]
@group(0) @binding(7) var<storage, read_write> y: array<f32>;     // [N, 2, C]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let n = group.y;
    let channels = p.in_a + p.in_b;
    let part = span(group.x, vec2<u32>(0u, p.pixels), lane);
    let found = moments(n, part, lane);
    let rstd = 1.0 / sqrt(found.squares / part.count + p.eps);

    let width = channels / p.groups;
    for (var c = group.x * width; c < (group.x + 1u) * width; c = c + 1u) {
        var factor = weight[c];
        var shift = bias[c];
        if p.has_emb != 0u {
            let e = n * 2u * channels + c;
            let scale = 1.0 + f32(emb[e]);
            factor = factor * scale;
            shift = shift * scale + f32(emb[e + channels]);
        }
        let w = walk(n, c, lane, WG);
        var plain = 0.0;
        var by_h = 0.0;
        var i = 0u;
        for (var pixel = lane; pixel < p.pixels; pixel = pixel + WG) {
            let h = (visit_one(w, i) - found.mean) * rstd;
            let d = f32(dy[(n * p.pixels + pixel) * channels + c]);
            let g = d * activation_derivative(h * factor + shift, p.activation);
            plain = plain + g;
            by_h = by_h + g * h;
            i = i + 1u;
        }
        let first = workgroup_sum(plain, lane);
        let second = workgroup_sum(by_h, lane);
        if lane == 0u {
            y[n * 2u * channels + c] = first;
            y[(n * 2u + 1u) * channels + c] = second;
        }
    }
}
