// variational_bound: y[n] = c7 Σ term / (item ln 2): bits per dimension of an item at its timestep, weighted
//   term = KL(q(x_{t-1} | x_t, x0), p(x_{t-1} | x_t)), at the first timestep -ln p(x0 | x1) of bytes
//   out      [N, item / channels, out_channels]  Elem   the prediction, then, if learned, the variance's share
//   x0, x_t  [N, item / channels, channels]      f32
//   c        [N, 8]                              f32    shared/variational_bound.wgsl
//   y        [N]                                 f32
// One workgroup computes one item. One pass over memory.
struct Params { item: u32, channels: u32, out_channels: u32, learned: u32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<Elem>;  // [N, item / channels, out_channels]
@group(0) @binding(2) var<storage, read_write> x0: array<f32>;    // [N, item / channels, channels]
@group(0) @binding(3) var<storage, read_write> x_t: array<f32>;   // [N, item / channels, channels]
@group(0) @binding(4) var<storage, read> c: array<f32>;           // [N, 8]
@group(0) @binding(5) var<storage, read_write> y: array<f32>;     // [N]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let n = group.x;
    let k = 8u * n;
    var sum = 0.0;
    for (var i = lane; i < p.item; i = i + WG) {
        let at = n * p.item + i;
        let value = at / p.channels * p.out_channels + at % p.channels;
        var between = 0.0;
        if p.learned != 0u {
            between = f32(out[value + p.channels]);
        }
        let t = term(k, x_t[at], x0[at], f32(out[value]), between);
        if c[k + 6u] != 0.0 {
            sum = sum - log(max(bin(t).mass, LEAST));
        } else {
            let d = c[k + 2u] * t.x0 + c[k + 3u] * t.xt - t.mean;
            let ratio = c[k + 4u] - t.log_variance;
            sum = sum + 0.5 * (exp(ratio) - 1.0 - ratio + d * d * exp(-t.log_variance));
        }
    }
    let total = workgroup_sum(sum, lane);
    if lane == 0u {
        y[n] = c[k + 7u] * total / (f32(p.item) * log(2.0));
    }
}
