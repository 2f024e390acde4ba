// winograd_output: y = epilogue(Aᵀ m A + bias) for each tile of 4 x 4 pixels: the last third of a 3 x 3 convolution by
// Winograd's F(4 x 4, 3 x 3) (Lavin & Gray 2015, arXiv:1509.09308), points 0, ±√½, ±√2, ∞
//   m        [36, T, cols]     Elem   T = N tiles_down tiles_across
//   bias     [cols]            f32
//   operand  [N OH OW / operand_rows, cols]  Elem
//   y        [N, OH, OW, cols] Elem
// One invocation transforms one tile of one channel. m is read once.
struct Params {
    out_height: u32, out_width: u32, cols: u32, tiles_down: u32, tiles_across: u32, tiles: u32, has_bias: u32,
    act: u32, operand_op: u32, operand_rows: u32, scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> m: array<Elem>;        // [36, T, cols]
@group(0) @binding(2) var<storage, read_write> bias: array<f32>;      // [cols]
@group(0) @binding(3) var<storage, read_write> operand: array<Elem>;  // [N OH OW / operand_rows, cols]
@group(0) @binding(4) var<storage, read_write> y: array<Elem>;        // [N, OH, OW, cols]

// Aᵀ x
fn transform(x: array<f32, 6>) -> array<f32, 4> {
    let s = x[1] + x[2];
    let d = 0.70710678 * (x[1] - x[2]);
    let t = x[3] + x[4];
    let e = 1.41421356 * (x[3] - x[4]);
    return array<f32, 4>(x[0] + s + t, d + e, 0.5 * s + 2.0 * t, 0.5 * d + 2.0 * e + x[5]);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, grid) * 64u + lane;
    let tile = i / p.cols;
    if tile >= p.tiles {
        return;
    }
    let col = i - tile * p.cols;
    let down = tile / p.tiles_across;
    let n = down / p.tiles_down;
    let top = (down - n * p.tiles_down) * 4u;
    let left = (tile - down * p.tiles_across) * 4u;
    var d: array<array<f32, 4>, 6>;
    for (var r = 0u; r < 6u; r++) {
        var row: array<f32, 6>;
        for (var x = 0u; x < 6u; x++) {
            row[x] = f32(m[(r * 6u + x) * p.tiles * p.cols + i]);
        }
        d[r] = transform(row);
    }
    for (var x = 0u; x < 4u; x++) {
        let column = transform(array<f32, 6>(d[0][x], d[1][x], d[2][x], d[3][x], d[4][x], d[5][x]));
        for (var r = 0u; r < 4u; r++) {
            if top + r < p.out_height && left + x < p.out_width {
                store((n * p.out_height + top + r) * p.out_width + left + x, col, column[r]);
            }
        }
    }
}
