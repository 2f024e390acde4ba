// conv2d_gradient: dx[n, y, x, c] = sum of dy[n, oy, ox, o] w[ky, kx, c, o] over taps and outputs with
// y = oy stride + ky - pad_top and x = ox stride + kx - pad_left: what a convolution's outputs say of its input
//   dy  [N, OH, OW, inner]        Elem
//   w   [kh, kw, inner, cols]     Weight  the convolution's filters, flipped along kh and kw
//   dx  [N, H, W, cols]           Elem
// Pixels of the same remainders by the stride read the same taps, and only these: rows of the product are such classes
// of pixels, one after the other. One invocation computes 4 pixels x 8 channels in registers, a workgroup a tile as
// wide as dx, up to 64 channels (shared/tile.wgsl).
// The uniform is shared/conv2d_gradient_params.wgsl.

@group(0) @binding(1) var<storage, read_write> dy: array<Elem>;  // [N, OH, OW, inner]
@group(0) @binding(2) var<storage, read> w: array<Weight>;       // [kh, kw, inner, cols]
@group(0) @binding(3) var<storage, read_write> dx: array<Elem>;  // [N, H, W, cols]

// The sums of one invocation: 4 pixels (x, y, z, w of the names' digit) by two quads of channels.
struct Tile { a0: vec4<f32>, a1: vec4<f32>, a2: vec4<f32>, a3: vec4<f32>,
              b0: vec4<f32>, b1: vec4<f32>, b2: vec4<f32>, b3: vec4<f32> }
var<private> t: Tile;

fn load_w(k: u32, c: vec4<u32>) -> vec4<f32> {
    let i = vec4<u32>(k * p.cols) + c;
    return vec4<f32>(f32(w[i.x]), f32(w[i.y]), f32(w[i.z]), f32(w[i.w]));
}

// Picture, row and column of a class's pixel `place`; a row past the end for places past the last.
fn pixel_of(place: u32, phase_y: u32, phase_x: u32) -> vec3<u32> {
    let down = (p.height + p.stride - 1u) / p.stride;
    let across = (p.width + p.stride - 1u) / p.stride;
    let n = place / (down * across);
    let at = place - n * down * across;
    let y = select(at / across * p.stride + phase_y, p.height, n >= p.pictures);
    return vec3<u32>(n, y, at % across * p.stride + phase_x);
}

// The output whose window has `pixel` at tap (ky, kx), a tap of the pixel's class; `inside` is 0 where there is none.
struct Tap { output: u32, inside: f32 }

fn tap(pixel: vec3<u32>, ky: u32, kx: u32) -> Tap {
    let y = pixel.y + p.pad_top;
    let x = pixel.z + p.pad_left;
    let oy = (y - ky) / p.stride;
    let ox = (x - kx) / p.stride;
    if pixel.x >= p.pictures || y < ky || x < kx || oy >= p.out_height || ox >= p.out_width {
        return Tap(0u, 0.0);
    }
    return Tap((pixel.x * p.out_height + oy) * p.out_width + ox, 1.0);
}

fn add_products(xs: vec4<f32>, u: vec4<f32>, v: vec4<f32>) {
    t.a0 += xs.x * u; t.a1 += xs.y * u; t.a2 += xs.z * u; t.a3 += xs.w * u;
    t.b0 += xs.x * v; t.b1 += xs.y * v; t.b2 += xs.z * v; t.b3 += xs.w * v;
}

fn store4(pixel: vec3<u32>, col: u32, sum: vec4<f32>) {
    if pixel.y >= p.height || pixel.z >= p.width {
        return;
    }
    let at = ((pixel.x * p.height + pixel.y) * p.width + pixel.z) * p.cols;
    for (var i = 0u; i < min(4u, max(p.cols, col) - col); i = i + 1u) {
        dx[at + col + i] = Elem(sum[i]);
    }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let corner = tile_place(linear_group(group, grid), lane, p.cols);
    let places = p.pictures * ((p.height + p.stride - 1u) / p.stride) * ((p.width + p.stride - 1u) / p.stride);
    let padded = (places + 3u) / 4u * 4u;
    let phase = corner.x / padded;
    let col = corner.y;
    if phase >= p.stride * p.stride || col >= p.cols {
        return;
    }
    let phase_y = phase / p.stride;
    let phase_x = phase % p.stride;
    let place = corner.x - phase * padded;
    let at0 = pixel_of(place, phase_y, phase_x);
    let at1 = pixel_of(place + 1u, phase_y, phase_x);
    let at2 = pixel_of(place + 2u, phase_y, phase_x);
    let at3 = pixel_of(place + 3u, phase_y, phase_x);
    // Columns past the edge read the last one and are not stored.
    let c0 = min(vec4<u32>(col) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.cols - 1u));
    let c1 = min(vec4<u32>(col) + vec4<u32>(4u, 5u, 6u, 7u), vec4<u32>(p.cols - 1u));
    for (var ky = (phase_y + p.pad_top) % p.stride; ky < p.kernel_height; ky = ky + p.stride) {
        for (var kx = (phase_x + p.pad_left) % p.stride; kx < p.kernel_width; kx = kx + p.stride) {
            let t0 = tap(at0, ky, kx);
            let t1 = tap(at1, ky, kx);
            let t2 = tap(at2, ky, kx);
            let t3 = tap(at3, ky, kx);
            let at = vec4<u32>(t0.output, t1.output, t2.output, t3.output) * p.inner;
            let inside = vec4<f32>(t0.inside, t1.inside, t2.inside, t3.inside);
            var k = ((p.kernel_height - ky) * p.kernel_width - 1u - kx) * p.inner;
            for (var o = 0u; o < p.inner; o = o + 1u) {
                let i = at + o;
                let ys = vec4<f32>(f32(dy[i.x]), f32(dy[i.y]), f32(dy[i.z]), f32(dy[i.w])) * inside;
                add_products(ys, load_w(k, c0), load_w(k, c1));
                k = k + 1u;
            }
        }
    }
    store4(at0, col, t.a0); store4(at0, col + 4u, t.b0);
    store4(at1, col, t.a1); store4(at1, col + 4u, t.b1);
    store4(at2, col, t.a2); store4(at2, col + 4u, t.b2);
    store4(at3, col, t.a3); store4(at3, col + 4u, t.b3);
}
