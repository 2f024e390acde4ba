// conv2d_subgroup: y = epilogue(conv([a | b], w) + bias), as conv2d.wgsl, for subgroups of 8 (software adapters)
//   a        [N', H, W, in_a]  Elem   the first channels of the input; picture n of y reads picture n % N'
//   b        [N', H, W, in_b]  Elem   the rest (a U-Net's skip connection); in_b may be 0
//   w        [kh, kw, in_a + in_b, cols]  Weight
//   bias     [cols]            f32
//   operand  [rows / operand_rows, cols]  Elem
//   y        [N, OH, OW, cols] Elem
// The input may be read as if enlarged `up` times by nearest neighbour; padding reads zero.
// One workgroup is a subgroup and computes ROWS pixels x 16 channels (shared/subgroup.wgsl).
// The uniform is shared/conv2d_params.wgsl.

@group(0) @binding(1) var<storage, read_write> a: array<Elem>;        // [N', H, W, in_a]
@group(0) @binding(2) var<storage, read_write> b: array<Elem>;        // [N', H, W, in_b]
@group(0) @binding(3) var<storage, read> w: array<Weight>;            // [kh, kw, in_a + in_b, cols]
@group(0) @binding(4) var<storage, read_write> bias: array<f32>;      // [cols]
@group(0) @binding(5) var<storage, read_write> operand: array<Elem>;  // [rows / operand_rows, cols]
@group(0) @binding(6) var<storage, read_write> y: array<Elem>;        // [N, OH, OW, cols]

var<private> image: array<u32, ROWS>;   // of each output pixel: its picture in the input,
var<private> top: array<u32, ROWS>;     // and where its window begins in the enlarged input; above or left of the
var<private> left: array<u32, ROWS>;    // edge it wraps far past the other edge
var<private> pixel: array<u32, ROWS>;   // what it reads at this tap,
var<private> inside: array<f32, ROWS>;  // and 0 in the padding

fn place_rows(first: u32) {
    for (var r = 0u; r < ROWS; r++) {
        // Pixels past the last read as the last and are not stored.
        let row = min(first + r, p.rows - 1u);
        let n = row / (p.out_height * p.out_width);
        let at = row - n * (p.out_height * p.out_width);
        let oy = at / p.out_width;
        image[r] = n % p.pictures;
        top[r] = oy * p.stride - p.pad_top;
        left[r] = (at - oy * p.out_width) * p.stride - p.pad_left;
    }
}

fn place_tap(ky: u32, kx: u32) {
    for (var r = 0u; r < ROWS; r++) {
        var iy = top[r] + ky;
        var ix = left[r] + kx;
        let out = iy >= p.height * p.up || ix >= p.width * p.up;
        if p.up != 1u {
            iy = iy / p.up;
            ix = ix / p.up;
        }
        inside[r] = select(1.0, 0.0, out);
        pixel[r] = select((image[r] * p.height + iy) * p.width + ix, 0u, out);
    }
}

// Channel c + lane of each pixel; zero beyond the last channel.
fn load_rows(c: u32, lane: u32) {
    if c + 8u <= p.in_a {
        for (var r = 0u; r < ROWS; r++) {
            rows8[r] = f32(a[pixel[r] * p.in_a + c + lane]) * inside[r];
        }
        return;
    }
    let mine = c + lane;
    let in_a = mine < p.in_a;
    let in_b = !in_a && mine < p.in_a + p.in_b;
    for (var r = 0u; r < ROWS; r++) {
        var v = 0.0;
        if in_a {
            v = f32(a[pixel[r] * p.in_a + mine]);
        }
        if in_b {
            v = f32(b[pixel[r] * p.in_b + mine - p.in_a]);
        }
        rows8[r] = v * inside[r];
    }
}

// A row of w at this lane's columns.
fn load_w(i: vec2<u32>) -> vec2<f32> {
    return vec2<f32>(f32(w[i.x]), f32(w[i.y]));
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(subgroup_invocation_id) lane: u32) {
    let tiles_across = (p.cols + 15u) / 16u;
    let tile = linear_group(group, grid);
    let row = tile / tiles_across * ROWS;
    if row >= p.rows {
        return;
    }
    let col = tile % tiles_across * 16u + lane;
    let cols = min(vec2<u32>(col, col + 8u), vec2<u32>(p.cols - 1u));
    let channels = p.in_a + p.in_b;
    let next = vec2<u32>(p.cols);
    clear_sums();
    place_rows(row);
    for (var t = 0u; t < p.kernel_height * p.kernel_width; t = t + 1u) {
        place_tap(t / p.kernel_width, t % p.kernel_width);
        var i = vec2<u32>(t * channels * p.cols) + cols;
        // Beyond the last channel, where the input gives zeros, its row is read again.
        let last = i + vec2<u32>((channels - 1u) * p.cols);
        for (var c = 0u; c < channels; c = c + 8u) {
            load_rows(c, lane);
            add0(load_w(i)); i = min(i + next, last);
            add1(load_w(i)); i = min(i + next, last);
            add2(load_w(i)); i = min(i + next, last);
            add3(load_w(i)); i = min(i + next, last);
            add4(load_w(i)); i = min(i + next, last);
            add5(load_w(i)); i = min(i + next, last);
            add6(load_w(i)); i = min(i + next, last);
            add7(load_w(i)); i = min(i + next, last);
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        if row + r < p.rows {
            store(row + r, col, sums[r].x);
            store(row + r, col + 8u, sums[r].y);
        }
    }
}
