// group_affine: what a group norm does to each channel, (x - mean) * gain + offset, from the moments of its strips
//   moments       [N, strips, groups, 3]  f32    count, mean, Σ (x - mean)²
//   weight, bias  [C]                     f32
//   emb           [N, 2 C]                Elem   [scale | shift] of a time embedding; read if has_emb
//   y             [N, 3, C]               f32    mean, gain, offset
// One invocation puts the strips of a channel's group together (Chan et al. 1979). Two passes over them.
struct Params { len: u32, strips: u32, channels: u32, groups: u32, has_emb: u32, eps: f32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> moments: array<f32>;  // [N, strips, groups, 3]
@group(0) @binding(2) var<storage, read> weight: array<f32>;         // [C]
@group(0) @binding(3) var<storage, read> bias: array<f32>;           // [C]
@group(0) @binding(4) var<storage, read_write> emb: array<Elem>;     // [N, 2 C]
@group(0) @binding(5) var<storage, read_write> y: array<f32>;        // [N, 3, C]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * WG + lane;
    if i >= p.len {
        return;
    }
    let n = i / p.channels;
    let c = i - n * p.channels;
    let first = (n * p.strips * p.groups + c / (p.channels / p.groups)) * 3u;
    let apart = p.groups * 3u;
    var count = 0.0;
    var sum = 0.0;
    for (var s = 0u; s < p.strips; s = s + 1u) {
        let at = first + s * apart;
        count = count + moments[at];
        sum = sum + moments[at] * moments[at + 1u];
    }
    let mean = sum / count;
    var squares = 0.0;
    for (var s = 0u; s < p.strips; s = s + 1u) {
        let at = first + s * apart;
        let d = moments[at + 1u] - mean;
        squares = squares + moments[at + 2u] + moments[at] * d * d;
    }
    var gain = weight[c] / sqrt(squares / count + p.eps);
    var offset = bias[c];
    if p.has_emb != 0u {
        let e = n * 2u * p.channels + c;
        let scale = 1.0 + f32(emb[e]);
        gain = gain * scale;
        offset = offset * scale + f32(emb[e + p.channels]);
    }
    let at = n * 3u * p.channels + c;
    y[at] = mean;
    y[at + p.channels] = gain;
    y[at + 2u * p.channels] = offset;
}
