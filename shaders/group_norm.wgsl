// group_norm: y = activate(n * (1 + scale) + shift), n = (x - mean_g) / sqrt(var_g + eps) * weight + bias
//   a            [N, HW, in_a]  Elem   the first channels of x
//   b            [N, HW, in_b]  Elem   the rest (a U-Net's skip connection); in_b may be 0
//   weight, bias [C]            f32    C = in_a + in_b
//   emb          [N, 2 C]       Elem   [scale | shift] of a time embedding; read if has_emb
//   y            [N, HW, C]     Elem
// One workgroup normalises one (n, group). Three passes over the group: mean, variance, output.
struct Params { pixels: u32, in_a: u32, in_b: u32, groups: u32, has_emb: u32, act: u32, eps: f32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> a: array<Elem>;    // [N, HW, in_a]
@group(0) @binding(2) var<storage, read_write> b: array<Elem>;    // [N, HW, in_b]
@group(0) @binding(3) var<storage, read> weight: array<f32>;      // [C]
@group(0) @binding(4) var<storage, read> bias: array<f32>;        // [C]
@group(0) @binding(5) var<storage, read_write> emb: array<Elem>;  // [N, 2 C]
@group(0) @binding(6) var<storage, read_write> y: array<Elem>;    // [N, HW, C]

fn load(pixel: u32, c: u32) -> f32 {
    if c < p.in_a {
        return f32(a[pixel * p.in_a + c]);
    }
    return f32(b[pixel * p.in_b + c - p.in_a]);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let n = group.y;
    let channels = p.in_a + p.in_b;
    let width = channels / p.groups;
    let first = group.x * width;
    let len = width * p.pixels;

    var sum = 0.0;
    for (var i = lane; i < len; i = i + WG) {
        sum = sum + load(n * p.pixels + i / width, first + i % width);
    }
    let mean = workgroup_sum(sum, lane) / f32(len);

    var squares = 0.0;
    for (var i = lane; i < len; i = i + WG) {
        let d = load(n * p.pixels + i / width, first + i % width) - mean;
        squares = squares + d * d;
    }
    let rstd = 1.0 / sqrt(workgroup_sum(squares, lane) / f32(len) + p.eps);

    for (var i = lane; i < len; i = i + WG) {
        let pixel = n * p.pixels + i / width;
        let c = first + i % width;
        var v = (load(pixel, c) - mean) * rstd * weight[c] + bias[c];
        if p.has_emb != 0u {
            let e = n * 2u * channels + c;
            v = v * (1.0 + f32(emb[e])) + f32(emb[e + channels]);
        }
        y[pixel * channels + c] = Elem(activate(v, p.act));
    }
}
