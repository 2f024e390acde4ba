// conv2d_gradient_subgroup: dx[n, y, x, c] = sum of dy[n, oy, ox, o] w[ky, kx, c, o] over taps and outputs with
// y = oy stride + ky - pad_top and x = ox stride + kx - pad_left, as conv2d_gradient.wgsl, for subgroups of 8 (software
// adapters)
//   dy  [N, OH, OW, inner]        Elem
//   w   [kh, kw, inner, cols]     Weight  the convolution's filters, flipped along kh and kw
//   dx  [N, H, W, cols]           Elem
// Rows of the product are pixels by classes of the same remainders by the stride, each padded to whole tiles. One
// workgroup is a subgroup and computes ROWS pixels of a class x 16 channels (shared/subgroup.wgsl).
// The uniform is shared/conv2d_gradient_params.wgsl.

@group(0) @binding(1) var<storage, read_write> dy: array<Elem>;  // [N, OH, OW, inner]
@group(0) @binding(2) var<storage, read> w: array<Weight>;       // [kh, kw, inner, cols]
@group(0) @binding(3) var<storage, read_write> dx: array<Elem>;  // [N, H, W, cols]

const NONE: u32 = 0xffffffffu;

var<private> image: array<u32, ROWS>;   // of each pixel: its picture,
var<private> top: array<u32, ROWS>;     // and its place among the padded rows and columns;
var<private> left: array<u32, ROWS>;
var<private> index: array<u32, ROWS>;   // its place in dx, or NONE,
var<private> read_by: array<u32, ROWS>;    // the output that reads it at this tap,
var<private> inside: array<f32, ROWS>;  // and 0 where there is none

fn place_rows(first: u32, phase: u32) {
    let down = (p.height + p.stride - 1u) / p.stride;
    let across = (p.width + p.stride - 1u) / p.stride;
    for (var r = 0u; r < ROWS; r++) {
        let n = (first + r) / (down * across);
        let at = first + r - n * (down * across);
        let y = at / across * p.stride + phase / p.stride;
        let x = at % across * p.stride + phase % p.stride;
        let none = n >= p.pictures || y >= p.height || x >= p.width;
        image[r] = min(n, p.pictures - 1u);
        top[r] = y + p.pad_top;
        left[r] = x + p.pad_left;
        index[r] = select((n * p.height + y) * p.width + x, NONE, none);
    }
}

fn place_tap(ky: u32, kx: u32) {
    for (var r = 0u; r < ROWS; r++) {
        let oy = (top[r] - ky) / p.stride;
        let ox = (left[r] - kx) / p.stride;
        let out = top[r] < ky || left[r] < kx || oy >= p.out_height || ox >= p.out_width;
        inside[r] = select(1.0, 0.0, out);
        read_by[r] = select((image[r] * p.out_height + oy) * p.out_width + ox, 0u, out);
    }
}

// Channel o + lane of each output; zero beyond the last channel.
fn load_rows(o: u32, lane: u32) {
    let mine = min(o + lane, p.inner - 1u);
    let known = f32(o + lane < p.inner);
    for (var r = 0u; r < ROWS; r++) {
        rows8[r] = f32(dy[read_by[r] * p.inner + mine]) * (inside[r] * known);
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
    let places = p.pictures * ((p.height + p.stride - 1u) / p.stride) * ((p.width + p.stride - 1u) / p.stride);
    let tiles_down = (places + ROWS - 1u) / ROWS;  // of a class
    let tile = linear_group(group, grid);
    let phase = tile / tiles_across / tiles_down;
    if phase >= p.stride * p.stride {
        return;
    }
    let col = tile % tiles_across * 16u + lane;
    let cols = min(vec2<u32>(col, col + 8u), vec2<u32>(p.cols - 1u));
    let next = vec2<u32>(p.cols);
    clear_sums();
    place_rows(tile / tiles_across % tiles_down * ROWS, phase);
    for (var ky = (phase / p.stride + p.pad_top) % p.stride; ky < p.kernel_height; ky = ky + p.stride) {
        for (var kx = (phase % p.stride + p.pad_left) % p.stride; kx < p.kernel_width; kx = kx + p.stride) {
            place_tap(ky, kx);
            let flipped = (p.kernel_height - ky) * p.kernel_width - 1u - kx;
            var i = vec2<u32>(flipped * p.inner * p.cols) + cols;
            // Beyond the last channel, where dy gives zeros, its row is read again.
            let last = i + vec2<u32>((p.inner - 1u) * p.cols);
            for (var o = 0u; o < p.inner; o = o + 8u) {
                load_rows(o, lane);
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
    }
    for (var r = 0u; r < ROWS; r++) {
        if index[r] != NONE {
            if col < p.cols {
                dx[index[r] * p.cols + col] = Elem(sums[r].x);
            }
            if col + 8u < p.cols {
                dx[index[r] * p.cols + col + 8u] = Elem(sums[r].y);
            }
        }
    }
}
