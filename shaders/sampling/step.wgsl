// step: one denoising step: guidance, x̂₀, clipping or thresholding, posterior mean, variance and noise, memory
//   out = u + guidance (c - u)      x̂₀ = x0_x x + x0_out out      ε̂ = eps_x x + eps_out out
//   x   <- next  · (x, clip(x̂₀), ε̂, m) + noise σ z
//   m_j <- row j · (x, clip(x̂₀), ε̂, m)
// where · takes so much of each. With next = (1/√α_t, 0, -β_t/√(1-ᾱ_t)/√α_t, 0), no memory and no clipping it is the
// plain DDPM update x_{t-1} = (x_t - β_t/√(1-ᾱ_t) ε)/√α_t + σ_t z. σ is given, or √v of the network's own v, or
// interpolated by it between two log variances.
//   out     [B or 2 B, HW, OC] Elem   [unconditional | conditional] if guided; channels [ε | v]
//   z       [B, HW, C]         f32    standard normal
//   numbers [64 + B]           f32    see shared/predict.wgsl; then quantiles of |x̂₀|, read if the clip kind is 2
//   lead    [4, B, HW, C]      f32    if steered: added to clip(x̂₀); to ε̂; to the next sample; times σ² to it
//           [B, HW, C + 1]            behind it, at known_at, if kept: a picture k and how much of it x̂₀ becomes
//                                     before clipping, m: m k + (1 - m) x̂₀
//   x       [B, HW, C]         f32    the sample; not touched if held
//   memory  [K, B, HW, C]      f32    what the sampler remembers; likewise
//   x0      [B, HW, C]         f32    the clipped x̂₀
//   fault   [1]                f32    becomes 1 where out or the next sample is no number
// One workgroup computes WG elements. One pass over memory. x, memory and fault are updated in place.
struct Params {
    len: u32, item: u32, channels: u32, out_channels: u32, guided: u32, steered: u32, kept: u32, known_at: u32,
    memory: u32, held: u32,
}

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> out: array<Elem>;            // [B or 2 B, HW, OC]
@group(0) @binding(2) var<storage, read_write> z: array<f32>;               // [B, HW, C]
@group(0) @binding(3) var<storage, read_write> numbers: array<f32>;         // [64 + B]
@group(0) @binding(4) var<storage, read_write> lead: array<f32>;            // [4, B, HW, C] and [B, HW, C + 1]
@group(0) @binding(5) var<storage, read_write> x: array<f32>;               // [B, HW, C]
@group(0) @binding(6) var<storage, read_write> memory: array<f32>;          // [K, B, HW, C]
@group(0) @binding(7) var<storage, read_write> x0s: array<f32>;             // [B, HW, C]
@group(0) @binding(8) var<storage, read_write> fault: array<atomic<u32>>;   // [1]

var<private> remembered: array<f32, 5>;

// What row r takes of the memory.
fn of_memory(r: u32) -> f32 {
    var sum = 0.0;
    for (var k = 0u; k < p.memory; k = k + 1u) {
        sum = sum + numbers[16u + 8u * r + 3u + k] * remembered[k];
    }
    return sum;
}

fn no_number(v: f32) -> bool {
    return (bitcast<u32>(v) & 0x7f800000u) == 0x7f800000u;
}

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
        o = guide(f32(out[at]), o, numbers[0]);
    }
    let sample = x[i];
    var x0 = linear(sample, o, numbers[1], numbers[2]);
    if p.kept != 0u {
        let known = p.known_at + i / p.channels * (p.channels + 1u);
        x0 = keep(x0, lead[known + i % p.channels], lead[known + p.channels]);
    }
    if numbers[5] == 1.0 {
        x0 = clamp(x0, -numbers[6], numbers[6]);
    } else if numbers[5] == 2.0 {
        let threshold = min(max(numbers[64u + i / p.item], 1.0), numbers[6]);
        x0 = clamp(x0, -threshold, threshold) / threshold;
    }
    var sigma = numbers[9];
    if numbers[8] != 0.0 {
        let v = f32(out[conditional + p.channels]);
        if numbers[8] == 1.0 {
            let share = 0.5 * (v + 1.0);
            sigma = exp(0.5 * (share * numbers[11] + (1.0 - share) * numbers[10]));
        } else {
            sigma = sqrt(max(v, 0.0));
        }
    }
    var eps = linear(sample, o, numbers[3], numbers[4]);
    if p.steered != 0u {
        x0 = x0 + lead[i];
        eps = eps + lead[p.len + i];
    }
    for (var k = 0u; k < p.memory; k = k + 1u) {
        remembered[k] = memory[k * p.len + i];
    }
    var next = numbers[16] * sample + numbers[17] * x0 + numbers[18] * eps + numbers[12] * sigma * z[i];
    if p.memory != 0u {
        next = next + of_memory(0u);
    }
    if p.steered != 0u {
        next = next + lead[2u * p.len + i] + sigma * sigma * lead[3u * p.len + i];
    }
    x0s[i] = x0;
    if no_number(o) || no_number(next) {
        atomicStore(&fault[0], bitcast<u32>(1.0));
    }
    if p.held != 0u {
        return;
    }
    x[i] = next;
    for (var k = 0u; k < p.memory; k = k + 1u) {
        let row = 24u + 8u * k;
        memory[k * p.len + i] =
            numbers[row] * sample + numbers[row + 1u] * x0 + numbers[row + 2u] * eps + of_memory(k + 1u);
    }
}
