// variational_bound_gradient: dout, the gradient of variational_bound.wgsl at the network's output; the mean's part is
// 0 where it is held, as L_hybrid holds it (Nichol & Dhariwal 2021, arXiv:2102.09672)
//   out, dout  [N, item / channels, out_channels]  Elem   the prediction, then, if learned, the variance's share
//   x0, x_t    [N, item / channels, channels]      f32
//   c          [N, 8]                              f32    shared/variational_bound.wgsl
//   dy         [N]                                 f32
// One invocation computes an element of the prediction and, if learned, its variance's. One pass over memory.
struct Params { len: u32, item: u32, channels: u32, out_channels: u32, learned: u32, held: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<Elem>;   // [N, item / channels, out_channels]
@group(0) @binding(2) var<storage, read_write> x0: array<f32>;     // [N, item / channels, channels]
@group(0) @binding(3) var<storage, read_write> x_t: array<f32>;    // [N, item / channels, channels]
@group(0) @binding(4) var<storage, read> c: array<f32>;            // [N, 8]
@group(0) @binding(5) var<storage, read_write> dy: array<f32>;     // [N]
@group(0) @binding(6) var<storage, read_write> dout: array<Elem>;  // [N, item / channels, out_channels]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let at = linear_group(group, grid) * 64u + lane;
    if at >= p.len {
        return;
    }
    let n = at / p.item;
    let k = 8u * n;
    let value = at / p.channels * p.out_channels + at % p.channels;
    var between = 0.0;
    if p.learned != 0u {
        between = f32(out[value + p.channels]);
    }
    let t = term(k, x_t[at], x0[at], f32(out[value]), between);
    // By the mean and by the log variance.
    var by = vec2<f32>();
    if c[k + 6u] != 0.0 {
        let its = bin(t);
        if its.mass > LEAST {
            let upper = select(normal_density(its.upper), 0.0, t.x0 > 0.999);
            let lower = select(normal_density(its.lower), 0.0, t.x0 < -0.999);
            let over_deviation = exp(-0.5 * t.log_variance);
            by = vec2<f32>(over_deviation * (upper - lower), 0.5 * (upper * its.upper - lower * its.lower)) / its.mass;
        }
    } else {
        let d = c[k + 2u] * t.x0 + c[k + 3u] * t.xt - t.mean;
        let over_variance = exp(-t.log_variance);
        by = vec2<f32>(-d * over_variance, 0.5 * (1.0 - exp(c[k + 4u] - t.log_variance) - d * d * over_variance));
    }
    by = by * (dy[n] * c[k + 7u] / (f32(p.item) * log(2.0)));
    dout[value] = Elem(select(by.x * c[k + 2u] * c[k + 1u], 0.0, p.held != 0u));
    if p.learned != 0u {
        dout[value + p.channels] = Elem(by.y * 0.5 * (c[k + 5u] - c[k + 4u]));
    }
}
