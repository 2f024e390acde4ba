// step: one denoising step: guidance, x̂₀, clipping or thresholding, posterior mean, variance and noise
//   out = u + guidance (c - u)      x̂₀ = x0_x x + x0_out out      ε̂ = eps_x x + eps_out out
//   y = mean_x x + mean_x0 clip(x̂₀) + mean_eps ε̂ + noise σ z
// with mean_x = 1/√α_t, mean_eps = -β_t/√(1-ᾱ_t)/√α_t and no clipping it is the plain DDPM update
// x_{t-1} = (x_t - β_t/√(1-ᾱ_t) ε)/√α_t + σ_t z. σ is given, or √v of the network's own v, or interpolated by it
// between two log variances.
//   x      [B, HW, C]         f32
//   out    [B or 2 B, HW, OC] Elem   [unconditional | conditional] if guided; channels [ε | v]
//   z      [B, HW, C]         f32    standard normal
//   coef   [64]               f32    see shared/predict.wgsl
//   s      [B]                f32    quantiles of |x̂₀|, read if the clip kind is 2
//   steer  [3, B, HW, C]      f32    read if steered: added to clip(x̂₀); to y; times σ² to y
//   known  [B, HW, C + 1]     f32    read if kept: a picture k and how much of it x̂₀ becomes before clipping, m:
//                                    m k + (1 - m) x̂₀
//   y      [2, B, HW, C]      f32    the next sample, then the clipped x̂₀
// One workgroup computes WG elements. One pass over memory.
struct Params { len: u32, item: u32, channels: u32, out_channels: u32, guided: u32, steered: u32, kept: u32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;     // [B, HW, C]
@group(0) @binding(2) var<storage, read_write> out: array<Elem>;  // [B or 2 B, HW, OC]
@group(0) @binding(3) var<storage, read_write> z: array<f32>;     // [B, HW, C]
@group(0) @binding(4) var<storage, read_write> coef: array<f32>;  // [64]
@group(0) @binding(5) var<storage, read_write> s: array<f32>;     // [B]
@group(0) @binding(6) var<storage, read_write> steer: array<f32>; // [3, B, HW, C]
@group(0) @binding(7) var<storage, read_write> known: array<f32>; // [B, HW, C + 1]
@group(0) @binding(8) var<storage, read_write> y: array<f32>;     // [2, B, HW, C]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * WG + lane;
    if i >= p.len {
        return;
    }
    let at = i / p.channels * p.out_channels + i % p.channels;
    let half_out = p.len / p.channels * p.out_channels;
    // The variance is the conditional half's; only ε is guided.
    let conditional = at + select(0u, half_out, p.guided != 0u);
    var o = f32(out[conditional]);
    if p.guided != 0u {
        o = guide(f32(out[at]), o, coef[0]);
    }
    var x0 = linear(x[i], o, coef[1], coef[2]);
    if p.kept != 0u {
        x0 = keep(x0, known[i + i / p.channels], known[i / p.channels * (p.channels + 1u) + p.channels]);
    }
    if coef[5] == 1.0 {
        x0 = clamp(x0, -coef[6], coef[6]);
    } else if coef[5] == 2.0 {
        let threshold = min(max(s[i / p.item], 1.0), coef[6]);
        x0 = clamp(x0, -threshold, threshold) / threshold;
    }
    var sigma = coef[9];
    if coef[8] != 0.0 {
        let v = f32(out[conditional + p.channels]);
        if coef[8] == 1.0 {
            let share = 0.5 * (v + 1.0);
            sigma = exp(0.5 * (share * coef[11] + (1.0 - share) * coef[10]));
        } else {
            sigma = sqrt(max(v, 0.0));
        }
    }
    if p.steered != 0u {
        x0 = x0 + steer[i];
    }
    let eps = linear(x[i], o, coef[3], coef[4]);
    var next = coef[16] * x[i] + coef[17] * x0 + coef[18] * eps + coef[12] * sigma * z[i];
    if p.steered != 0u {
        next = next + steer[p.len + i] + sigma * sigma * steer[2u * p.len + i];
    }
    y[i] = next;
    y[p.len + i] = x0;
}
