// group_norm: y = activate(n * (1 + scale) + shift), n = (x - mean_g) / sqrt(var_g + eps) * weight + bias
//   a            [N, HW, in_a]  Elem   the first channels of x
//   b            [N, HW, in_b]  Elem   the rest (a U-Net's skip connection); in_b may be 0
//   weight, bias [C]            f32    C = in_a + in_b
//   emb          [N, 2 C]       Elem   [scale | shift] of a time embedding; read if has_emb
//   y            [N, HW, C]     Elem
// One workgroup normalises one (n, group). Three passes over the group: mean, variance, output. An invocation keeps to
// a channel and strides over the pixels, so that nothing is divided on the way; wide groups take several rounds.
struct Params { pixels: u32, in_a: u32, in_b: u32, groups: u32, has_emb: u32, act: u32, eps: f32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> a: array<Elem>;    // [N, HW, in_a]
@group(0) @binding(2) var<storage, read_write> b: array<Elem>;    // [N, HW, in_b]
@group(0) @binding(3) var<storage, read> weight: array<f32>;      // [C]
@group(0) @binding(4) var<storage, read> bias: array<f32>;        // [C]
@group(0) @binding(5) var<storage, read_write> emb: array<Elem>;  // [N, 2 C]
@group(0) @binding(6) var<storage, read_write> y: array<Elem>;    // [N, HW, C]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let n = group.y;
    let channels = p.in_a + p.in_b;
    let part = span(group.x, vec2<u32>(0u, p.pixels), lane);

    let found = moments(n, part, lane);
    let rstd = 1.0 / sqrt(found.squares / part.count + p.eps);

    for (var c = part.own; c < part.end; c = c + WG) {
        let w = walk(n, c, part.start, part.step);
        var factor = rstd * weight[c];
        var shift = bias[c];
        if p.has_emb != 0u {
            let e = n * 2u * channels + c;
            let scale = 1.0 + f32(emb[e]);
            factor = factor * scale;
            shift = shift * scale + f32(emb[e + channels]);
        }
        let out = (n * p.pixels + part.start) * channels + c;
        let apart = part.step * channels;
        for (var i = 0u; i < part.whole; i = i + 4u) {
            let v = (visit(w, i) - found.mean) * factor + shift;
            let o = out + i * apart;
            y[o] = Elem(activate(v.x, p.act));
            y[o + apart] = Elem(activate(v.y, p.act));
            y[o + 2u * apart] = Elem(activate(v.z, p.act));
            y[o + 3u * apart] = Elem(activate(v.w, p.act));
        }
        for (var i = part.whole; i < part.visits; i = i + 1u) {
            y[out + i * apart] = Elem(activate((visit_one(w, i) - found.mean) * factor + shift, p.act));
        }
    }
}
