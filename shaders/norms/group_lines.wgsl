// group_lines: what the gradient of a group norm loses to its group's mean and variance, level + slope (x - mean):
//   y[n, group] = (Σ_s slopes[0], Σ_s slopes[1] / (var + eps)) / count
//   slopes   [N, strips, groups, 2]  f32   Σ gain g, Σ gain g (x - mean) of each strip (group_slopes.wgsl)
//   moments  [N, strips, groups, 3]  f32   count, mean, Σ (x - mean)² of each strip (group_moments.wgsl)
//   y        [N, groups, 2]          f32   level, slope
// One workgroup puts the strips of one (n, group) together (Chan et al. 1979), in two passes over them.
struct Params { strips: u32, groups: u32, eps: f32 }

override WG: u32 = 256u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> slopes: array<f32>;   // [N, strips, groups, 2]
@group(0) @binding(2) var<storage, read_write> moments: array<f32>;  // [N, strips, groups, 3]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;        // [N, groups, 2]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = group.y * p.strips * p.groups + group.x;
    var part = 0.0;
    var sum = 0.0;
    var plain = 0.0;
    var by_distance = 0.0;
    for (var s = lane; s < p.strips; s = s + WG) {
        let at = first + s * p.groups;
        part = part + moments[at * 3u];
        sum = sum + moments[at * 3u] * moments[at * 3u + 1u];
        plain = plain + slopes[at * 2u];
        by_distance = by_distance + slopes[at * 2u + 1u];
    }
    let count = workgroup_sum(part, lane);
    let mean = workgroup_sum(sum, lane) / count;
    part = 0.0;
    for (var s = lane; s < p.strips; s = s + WG) {
        let at = (first + s * p.groups) * 3u;
        let d = moments[at + 1u] - mean;
        part = part + moments[at + 2u] + moments[at] * d * d;
    }
    let variance = workgroup_sum(part, lane) / count;
    let level = workgroup_sum(plain, lane) / count;
    let slope = workgroup_sum(by_distance, lane) / count / (variance + p.eps);
    if lane == 0u {
        let to = (group.y * p.groups + group.x) * 2u;
        y[to] = level;
        y[to + 1u] = slope;
    }
}
