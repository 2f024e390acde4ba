// group_norm_gradient: y = epilogue(dx), the gradient of group_norm.wgsl at x:
//   dx = rstd (g - mean(g) - n mean(g n)),  g = dy activate'(v) weight (1 + scale),  n = (x - mean_g) rstd,
//   v = (n weight + bias) (1 + scale) + shift,  rstd = 1 / sqrt(var_g + eps)
//   a             [N, HW, in_a]                Elem   the first channels of x
//   b             [N, HW, in_b]                Elem   the rest; in_b may be 0
//   weight, bias  [C]                          f32    C = in_a + in_b
//   emb           [N, 2 C]                     Elem   [scale | shift]; read if has_emb
//   dy, y         [N, HW, C]                   Elem
//   operand       [N HW / operand_rows, C]     Elem
// One workgroup computes one (n, group), walking as group_norm.wgsl does. Four passes over the group: mean, variance,
// the means of g and g n (with dy), output (with dy).
struct Params {
    pixels: u32, in_a: u32, in_b: u32, groups: u32, has_emb: u32, activation: u32, eps: f32,
    act: u32, operand_op: u32, operand_rows: u32, scale: f32,
}

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> a: array<Elem>;        // [N, HW, in_a]
@group(0) @binding(2) var<storage, read_write> b: array<Elem>;        // [N, HW, in_b]
@group(0) @binding(3) var<storage, read> weight: array<f32>;          // [C]
@group(0) @binding(4) var<storage, read> bias: array<f32>;            // [C]
@group(0) @binding(5) var<storage, read_write> emb: array<Elem>;      // [N, 2 C]
@group(0) @binding(6) var<storage, read_write> dy: array<Elem>;       // [N, HW, C]
@group(0) @binding(7) var<storage, read_write> operand: array<Elem>;  // [N HW / operand_rows, C]
@group(0) @binding(8) var<storage, read_write> y: array<Elem>;        // [N, HW, C]

// v = (x - mean) factor + shift; factor = rstd weight (1 + scale).
struct Affine { factor: f32, shift: f32 }

fn affine(n: u32, c: u32, rstd: f32) -> Affine {
    var result = Affine(rstd * weight[c], bias[c]);
    if p.has_emb != 0u {
        let channels = p.in_a + p.in_b;
        let e = n * 2u * channels + c;
        let scale = 1.0 + f32(emb[e]);
        result.factor = result.factor * scale;
        result.shift = result.shift * scale + f32(emb[e + channels]);
    }
    return result;
}

// Four values of dy, and what the activation passes of them at four v.
fn passed(v: vec4<f32>, at: u32, apart: u32) -> vec4<f32> {
    let d = vec4<f32>(f32(dy[at]), f32(dy[at + apart]), f32(dy[at + 2u * apart]), f32(dy[at + 3u * apart]));
    if p.activation == IDENTITY {
        return d;
    }
    return d * vec4<f32>(
        activation_derivative(v.x, p.activation), activation_derivative(v.y, p.activation),
        activation_derivative(v.z, p.activation), activation_derivative(v.w, p.activation));
}

fn passed_one(v: f32, at: u32) -> f32 {
    return f32(dy[at]) * activation_derivative(v, p.activation);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let n = group.y;
    let channels = p.in_a + p.in_b;
    let part = span(group.x, vec2<u32>(0u, p.pixels), lane);
    let out = (n * p.pixels + part.start) * channels;
    let apart = part.step * channels;

    let found = moments(n, part, lane);
    let rstd = 1.0 / sqrt(found.squares / part.count + p.eps);

    // Of rstd g and rstd g (x - mean), without the channel's factors until the end.
    var plain = 0.0;
    var by_distance = 0.0;
    for (var c = part.own; c < part.end; c = c + WG) {
        let w = walk(n, c, part.start, part.step);
        let k = affine(n, c, rstd);
        var s = vec4<f32>();
        var t = vec4<f32>();
        for (var i = 0u; i < part.whole; i = i + 4u) {
            let d = visit(w, i) - found.mean;
            let g = passed(d * k.factor + k.shift, out + c + i * apart, apart);
            s = s + g;
            t = t + g * d;
        }
        for (var i = part.whole; i < part.visits; i = i + 1u) {
            let d = visit_one(w, i) - found.mean;
            let g = passed_one(d * k.factor + k.shift, out + c + i * apart);
            s.x = s.x + g;
            t.x = t.x + g * d;
        }
        plain = plain + k.factor * ((s.x + s.y) + (s.z + s.w));
        by_distance = by_distance + k.factor * ((t.x + t.y) + (t.z + t.w));
    }
    let level = workgroup_sum(plain, lane) / part.count;
    let slope = workgroup_sum(by_distance, lane) / part.count * rstd * rstd;

    for (var c = part.own; c < part.end; c = c + WG) {
        let w = walk(n, c, part.start, part.step);
        let k = affine(n, c, rstd);
        for (var i = 0u; i < part.whole; i = i + 4u) {
            let at = out + c + i * apart;
            let d = visit(w, i) - found.mean;
            let dx = passed(d * k.factor + k.shift, at, apart) * k.factor - (d * slope + level);
            store_at(at, channels, dx.x);
            store_at(at + apart, channels, dx.y);
            store_at(at + 2u * apart, channels, dx.z);
            store_at(at + 3u * apart, channels, dx.w);
        }
        for (var i = part.whole; i < part.visits; i = i + 1u) {
            let at = out + c + i * apart;
            let d = visit_one(w, i) - found.mean;
            store_at(at, channels, passed_one(d * k.factor + k.shift, at) * k.factor - (d * slope + level));
        }
    }
}
