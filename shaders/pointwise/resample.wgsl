// resample: y = picture x at another size, by weights separable in height and width
//   x  [N, H, W, C]    Elem
//   y  [N, OH, OW, C]  Elem
// Nearest reads floor(i H / OH). Linear and cubic centre pixels (or align the corners), repeat the edge, and with
// antialias stretch their kernel when shrinking, drop taps outside and renormalise. Area averages s x s blocks.
// One workgroup computes WG elements. Each input element is read by every output it reaches.
// The uniform is that of shared/resample.wgsl.

override WG: u32 = 64u;

@group(0) @binding(1) var<storage, read_write> x: array<Elem>;  // [N, H, W, C]
@group(0) @binding(2) var<storage, read_write> y: array<Elem>;  // [N, OH, OW, C]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, grid) * WG + lane;
    if index >= p.len {
        return;
    }
    let c = index % p.channels;
    let pixel = index / p.channels;
    let ox = pixel % p.out_width;
    let oy = pixel / p.out_width % p.out_height;
    let n = pixel / (p.out_width * p.out_height);
    let rows = axis(oy, p.height, p.out_height);
    let cols = axis(ox, p.width, p.out_width);
    var sum = 0.0;
    for (var i = 0; i < rows.count; i = i + 1) {
        let iy = u32(clamp(rows.first + i, 0, i32(p.height) - 1));
        var line = 0.0;
        for (var j = 0; j < cols.count; j = j + 1) {
            let ix = u32(clamp(cols.first + j, 0, i32(p.width) - 1));
            line = line + tap_weight(cols, j) * f32(x[((n * p.height + iy) * p.width + ix) * p.channels + c]);
        }
        sum = sum + tap_weight(rows, i) * line;
    }
    y[index] = Elem(sum / (rows.total * cols.total));
}
