// conv2d: y = epilogue(conv([a | b], w) + bias), an implicit matrix product that never writes its patches
//   a        [N', H, W, in_a]  Elem   the first channels of the input; picture n of y reads picture n % N'
//   b        [N', H, W, in_b]   Elem   the rest (a U-Net's skip connection); in_b may be 0
//   w        [kh, kw, in_a + in_b, cols]  Weight
//   bias     [cols]            f32
//   operand  [rows / operand_rows, cols]  Elem
//   y        [N, OH, OW, cols] Elem
// The input may be read as if enlarged `up` times by nearest neighbour; padding reads zero.
// One invocation computes 4 pixels x 8 channels in registers, a workgroup a tile as wide as y, up to 64 channels
// (shared/tile.wgsl).
// The uniform is shared/conv2d_params.wgsl.

@group(0) @binding(1) var<storage, read_write> a: array<Elem>;        // [N', H, W, in_a]
@group(0) @binding(2) var<storage, read_write> b: array<Elem>;        // [N', H, W, in_b]
@group(0) @binding(3) var<storage, read> w: array<Weight>;            // [kh, kw, in_a + in_b, cols]
@group(0) @binding(4) var<storage, read_write> bias: array<f32>;      // [cols]
@group(0) @binding(5) var<storage, read_write> operand: array<Elem>;  // [rows / operand_rows, cols]
@group(0) @binding(6) var<storage, read_write> y: array<Elem>;        // [N, OH, OW, cols]

// The sums of one invocation: 4 pixels (x, y, z, w of the names' digit) by two quads of channels.
struct Tile { a0: vec4<f32>, a1: vec4<f32>, a2: vec4<f32>, a3: vec4<f32>,
              b0: vec4<f32>, b1: vec4<f32>, b2: vec4<f32>, b3: vec4<f32> }
var<private> t: Tile;

fn load_w(k: u32, c: vec4<u32>) -> vec4<f32> {
    let i = vec4<u32>(k * p.cols) + c;
    return vec4<f32>(f32(w[i.x]), f32(w[i.y]), f32(w[i.z]), f32(w[i.w]));
}

// The pixel of the (unenlarged) input that output pixel `row` reads at tap (ky, kx); `inside` is 0 in the padding.
struct Tap { pixel: u32, inside: f32 }

fn tap(row: u32, ky: u32, kx: u32) -> Tap {
    let image = row / (p.out_height * p.out_width);
    let at = row - image * (p.out_height * p.out_width);
    let oy = at / p.out_width;
    // Unsigned: a coordinate above the top or left edge wraps far past the bottom or right one.
    let iy = oy * p.stride + ky - p.pad_top;
    let ix = (at - oy * p.out_width) * p.stride + kx - p.pad_left;
    if iy >= p.height * p.up || ix >= p.width * p.up {
        return Tap(0u, 0.0);
    }
    return Tap((image % p.pictures * p.height + iy / p.up) * p.width + ix / p.up, 1.0);
}

fn add_products(xs: vec4<f32>, u: vec4<f32>, v: vec4<f32>) {
    t.a0 += xs.x * u; t.a1 += xs.y * u; t.a2 += xs.z * u; t.a3 += xs.w * u;
    t.b0 += xs.x * v; t.b1 += xs.y * v; t.b2 += xs.z * v; t.b3 += xs.w * v;
}

fn store4(row: u32, col: u32, sum: vec4<f32>) {
    if row >= p.rows {
        return;
    }
    store(row, col, sum.x);
    store(row, col + 1u, sum.y);
    store(row, col + 2u, sum.z);
    store(row, col + 3u, sum.w);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let place = tile_place(linear_group(group, grid), lane, p.cols);
    let row = place.x;
    let col = place.y;
    if row >= p.rows || col >= p.cols {
        return;
    }
    // Rows and columns past the edge read the last ones and are not stored.
    let r = min(vec4<u32>(row) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.rows - 1u));
    let c0 = min(vec4<u32>(col) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.cols - 1u));
    let c1 = min(vec4<u32>(col) + vec4<u32>(4u, 5u, 6u, 7u), vec4<u32>(p.cols - 1u));
    let channels = p.in_a + p.in_b;
    for (var ky = 0u; ky < p.kernel_height; ky = ky + 1u) {
        for (var kx = 0u; kx < p.kernel_width; kx = kx + 1u) {
            let t0 = tap(r.x, ky, kx);
            let t1 = tap(r.y, ky, kx);
            let t2 = tap(r.z, ky, kx);
            let t3 = tap(r.w, ky, kx);
            let pixel = vec4<u32>(t0.pixel, t1.pixel, t2.pixel, t3.pixel);
            let inside = vec4<f32>(t0.inside, t1.inside, t2.inside, t3.inside);
            var k = (ky * p.kernel_width + kx) * channels;
            let at_a = pixel * p.in_a;
            var c = 0u;
            // Two channels a turn: a turn's own cost counts on slow devices.
            for (; c + 1u < p.in_a; c = c + 2u) {
                let i = at_a + c;
                let xs = vec4<f32>(f32(a[i.x]), f32(a[i.y]), f32(a[i.z]), f32(a[i.w])) * inside;
                let j = i + 1u;
                let ys = vec4<f32>(f32(a[j.x]), f32(a[j.y]), f32(a[j.z]), f32(a[j.w])) * inside;
                add_products(xs, load_w(k, c0), load_w(k, c1));
                add_products(ys, load_w(k + 1u, c0), load_w(k + 1u, c1));
                k = k + 2u;
            }
            if c < p.in_a {
                let i = at_a + c;
                let xs = vec4<f32>(f32(a[i.x]), f32(a[i.y]), f32(a[i.z]), f32(a[i.w])) * inside;
                add_products(xs, load_w(k, c0), load_w(k, c1));
                k = k + 1u;
            }
            let at_b = pixel * p.in_b;
            for (var c = 0u; c < p.in_b; c = c + 1u) {
                let i = at_b + c;
                let xs = vec4<f32>(f32(b[i.x]), f32(b[i.y]), f32(b[i.z]), f32(b[i.w])) * inside;
                add_products(xs, load_w(k, c0), load_w(k, c1));
                k = k + 1u;
            }
        }
    }
    store4(row, col, t.a0); store4(row, col + 4u, t.b0);
    store4(row + 1u, col, t.a1); store4(row + 1u, col + 4u, t.b1);
    store4(row + 2u, col, t.a2); store4(row + 2u, col + 4u, t.b2);
    store4(row + 3u, col, t.a3); store4(row + 3u, col + 4u, t.b3);
}
