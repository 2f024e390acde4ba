// group_affine: what a group norm does to each channel, (x - mean) * gain + offset, from the moments of its strips
//   moments       [N, strips, groups, 3]  f32    count, mean, Σ (x - mean)²
//   weight, bias  [C]                     f32
//   emb           [N, 2 C]                Elem   [scale | shift] of a time embedding; read if has_emb
//   y             [N, 3, C]               f32    mean, gain, offset
// One workgroup puts the strips of one (n, group) together (Chan et al. 1979), in two passes over them, and writes what
// follows for the group's channels.
struct Params { strips: u32, channels: u32, groups: u32, has_emb: u32, eps: f32 }

override WG: u32 = 256u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> moments: array<f32>;  // [N, strips, groups, 3]
@group(0) @binding(2) var<storage, read> weight: array<f32>;         // [C]
@group(0) @binding(3) var<storage, read> bias: array<f32>;           // [C]
@group(0) @binding(4) var<storage, read_write> emb: array<Elem>;     // [N, 2 C]
@group(0) @binding(5) var<storage, read_write> y: array<f32>;        // [N, 3, C]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let n = group.y;
    let first = (n * p.strips * p.groups + group.x) * 3u;
    let apart = p.groups * 3u;
    var part = 0.0;
    var sum = 0.0;
    for (var s = lane; s < p.strips; s = s + WG) {
        let at = first + s * apart;
        part = part + moments[at];
        sum = sum + moments[at] * moments[at + 1u];
    }
    let count = workgroup_sum(part, lane);
    let mean = workgroup_sum(sum, lane) / count;
    part = 0.0;
    for (var s = lane; s < p.strips; s = s + WG) {
        let at = first + s * apart;
        let d = moments[at + 1u] - mean;
        part = part + moments[at + 2u] + moments[at] * d * d;
    }
    let rstd = 1.0 / sqrt(workgroup_sum(part, lane) / count + p.eps);

    let width = p.channels / p.groups;
    for (var c = group.x * width + lane; c < group.x * width + width; c = c + WG) {
        var gain = weight[c] * rstd;
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
}
