// winograd_input: v = Bᵀ d B for each 6 x 6 window d of the padded input, windows 4 apart: the first third of a 3 x 3
// convolution by Winograd's F(4 x 4, 3 x 3) (Lavin & Gray 2015, arXiv:1509.09308), points 0, ±√½, ±√2, ∞
//   a  [N', H, W, in_a]  Elem   the first channels of the input; picture n reads picture n % N'
//   b  [N', H, W, in_b]  Elem   the rest (a U-Net's skip connection); in_b may be 0
//   v  [36, T, C]        Elem   T = N tiles_down tiles_across tiles of 4 x 4 output pixels, C = in_a + in_b
// The input may be read as if enlarged `up` times by nearest neighbour; padding reads zero.
// One invocation transforms one window of one channel. Each element is read 2.25 times.
struct Params {
    height: u32, width: u32, in_a: u32, in_b: u32, up: u32, pictures: u32,
    tiles_down: u32, tiles_across: u32, tiles: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> a: array<Elem>;  // [N', H, W, in_a]
@group(0) @binding(2) var<storage, read_write> b: array<Elem>;  // [N', H, W, in_b]
@group(0) @binding(3) var<storage, read_write> v: array<Elem>;  // [36, T, C]

// Bᵀ x
fn transform(x: array<f32, 6>) -> array<f32, 6> {
    let s = x[4] - 2.0 * x[2];
    let t = 0.70710678 * (x[3] - 2.0 * x[1]);
    let u = x[4] - 0.5 * x[2];
    let w = 1.41421356 * (x[3] - 0.5 * x[1]);
    return array<f32, 6>(x[0] - 2.5 * x[2] + x[4], s + t, s - t, u + w, u - w, x[1] - 2.5 * x[3] + x[5]);
}

fn load(pixel: u32, c: u32) -> f32 {
    if p.in_b == 0u || c < p.in_a {
        return f32(a[pixel * p.in_a + c]);
    }
    return f32(b[pixel * p.in_b + c - p.in_a]);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let channels = p.in_a + p.in_b;
    let i = linear_group(group, grid) * 64u + lane;
    let tile = i / channels;
    if tile >= p.tiles {
        return;
    }
    let c = i - tile * channels;
    let down = tile / p.tiles_across;
    let image = down / p.tiles_down % p.pictures;
    // The corner of the window, one pixel up and left of the tile: unsigned, it wraps far past the other edge.
    let top = down % p.tiles_down * 4u - 1u;
    let left = (tile - down * p.tiles_across) * 4u - 1u;
    // Per row and column of the window: its place in the input, and 0 in the padding.
    var row: array<u32, 6>;
    var column: array<u32, 6>;
    var in_row: array<f32, 6>;
    var in_column: array<f32, 6>;
    for (var j = 0u; j < 6u; j++) {
        var iy = top + j;
        var ix = left + j;
        in_row[j] = select(0.0, 1.0, iy < p.height * p.up);
        in_column[j] = select(0.0, 1.0, ix < p.width * p.up);
        iy = select(0u, iy, iy < p.height * p.up);
        ix = select(0u, ix, ix < p.width * p.up);
        if p.up != 1u {
            iy = iy / p.up;
            ix = ix / p.up;
        }
        row[j] = (image * p.height + iy) * p.width;
        column[j] = ix;
    }
    var d: array<array<f32, 6>, 6>;
    for (var y = 0u; y < 6u; y++) {
        for (var x = 0u; x < 6u; x++) {
            d[y][x] = load(row[y] + column[x], c) * (in_row[y] * in_column[x]);
        }
        d[y] = transform(d[y]);
    }
    for (var x = 0u; x < 6u; x++) {
        let turned = transform(array<f32, 6>(d[0][x], d[1][x], d[2][x], d[3][x], d[4][x], d[5][x]));
        for (var y = 0u; y < 6u; y++) {
            v[(y * 6u + x) * p.tiles * channels + i] = Elem(turned[y]);
        }
    }
}
