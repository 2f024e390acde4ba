// filter_gradient: y[s, tap, c, o] = Σ_r x[pixel(r, tap), c] dy[r, o], r over the outputs of slice s: the gradient of
// conv2d.wgsl at its filter. A product's right side is the filter of one tap.
//   a   [pictures, height, width, in_a]              Elem   the first channels of x
//   b   [pictures, height, width, in_b]              Elem   the rest; in_b may be 0
//   dy  [rows, cols]                                 Elem
//   y   [slices, kernel_height kernel_width C, cols] f32    C = in_a + in_b
// One workgroup computes 32 by 32 of y of one slice, an invocation 4 by 4, through workgroup memory, 16 outputs at a
// time. a, b and dy are read once for every 32 columns and rows of y.
struct Params {
    height: u32, width: u32, in_a: u32, in_b: u32, out_height: u32, out_width: u32, cols: u32, rows: u32,
    kernel_height: u32, kernel_width: u32, stride: u32, up: u32, pad_top: u32, pad_left: u32, pictures: u32,
    slices: u32, direct: u32,
}

const SIDE: u32 = 32u;
const STEP: u32 = 16u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> a: array<Elem>;   // [pictures, height, width, in_a]
@group(0) @binding(2) var<storage, read_write> b: array<Elem>;   // [pictures, height, width, in_b]
@group(0) @binding(3) var<storage, read_write> dy: array<Elem>;  // [rows, cols]
@group(0) @binding(4) var<storage, read_write> y: array<f32>;    // [slices, taps C, cols]

var<workgroup> left: array<f32, SIDE * STEP>;
var<workgroup> right: array<f32, SIDE * STEP>;

// An output pixel, and the picture it reads.
struct Place { x: u32, y: u32, image: u32 }

fn advance(at: Place, by: u32) -> Place {
    var next = at;
    next.x = next.x + by;
    while next.x >= p.out_width {
        next.x = next.x - p.out_width;
        next.y = next.y + 1u;
        if next.y == p.out_height {
            next.y = 0u;
            next.image = select(next.image + 1u, 0u, next.image + 1u == p.pictures);
        }
    }
    return next;
}

// What an output reads at tap (ky, kx) of channel c.
fn read(at: Place, ky: u32, kx: u32, c: u32) -> f32 {
    // What lies above the first row is, unsigned, far below the last.
    var row = at.y * p.stride + ky - p.pad_top;
    var col = at.x * p.stride + kx - p.pad_left;
    if row >= p.height * p.up || col >= p.width * p.up {
        return 0.0;
    }
    if p.up > 1u {
        row = row / p.up;
        col = col / p.up;
    }
    let pixel = (at.image * p.height + row) * p.width + col;
    if c < p.in_a {
        return f32(a[pixel * p.in_a + c]);
    }
    return f32(b[pixel * p.in_b + c - p.in_a]);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let channels = p.in_a + p.in_b;
    let inner = p.kernel_height * p.kernel_width * channels;
    let across = (p.cols + SIDE - 1u) / SIDE;
    let down = (inner + SIDE - 1u) / SIDE;
    let index = linear_group(group, grid);
    if index >= across * down * p.slices {
        return;
    }
    let slice = index / (across * down);
    let first_k = index / across % down * SIDE;
    let first_o = index % across * SIDE;
    let length = (p.rows + p.slices - 1u) / p.slices;
    let end = min(p.rows, (slice + 1u) * length);

    // An invocation loads one row of y's in every second output.
    let k = first_k + lane % SIDE;
    let o = first_o + lane % SIDE;
    let tap = k / channels;
    let c = k % channels;
    let ky = tap / p.kernel_width;
    let kx = tap % p.kernel_width;
    let start = slice * length + lane / SIDE;
    var at = Place(start % p.out_width, start / p.out_width % p.out_height,
        start / p.out_width / p.out_height % p.pictures);
    let tall = lane / 8u * 4u;
    let wide = lane % 8u * 4u;
    var sums: array<vec4<f32>, 4>;
    for (var row = slice * length; row < end; row = row + STEP) {
        for (var i = 0u; i < STEP; i = i + 2u) {
            let r = row + i + lane / SIDE;
            let to = (i + lane / SIDE) * SIDE + lane % SIDE;
            var x = 0.0;
            var d = 0.0;
            if r < end {
                if k < inner {
                    x = read(at, ky, kx, c);
                }
                if o < p.cols {
                    d = f32(dy[r * p.cols + o]);
                }
            }
            left[to] = x;
            right[to] = d;
            at = advance(at, 2u);
        }
        workgroupBarrier();
        for (var i = 0u; i < STEP; i = i + 1u) {
            let l = i * SIDE + tall;
            let r = i * SIDE + wide;
            let d = vec4<f32>(right[r], right[r + 1u], right[r + 2u], right[r + 3u]);
            sums[0] = sums[0] + left[l] * d;
            sums[1] = sums[1] + left[l + 1u] * d;
            sums[2] = sums[2] + left[l + 2u] * d;
            sums[3] = sums[3] + left[l + 3u] * d;
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 4u; i = i + 1u) {
        for (var j = 0u; j < 4u; j = j + 1u) {
            if first_k + tall + i < inner && first_o + wide + j < p.cols {
                y[(slice * inner + first_k + tall + i) * p.cols + first_o + wide + j] = sums[i][j];
            }
        }
    }
}
