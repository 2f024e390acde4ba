// matmul_subgroup: y = epilogue(x · w + bias), as matmul.wgsl, for subgroups of 8 (software adapters)
//   x        [batches, rows, inner]  Elem
//   w        [batches, inner, cols]  Weight
//   bias     [cols]                  f32
//   operand  [batches rows / operand_rows, cols]  Elem
//   y        [batches, rows, cols]   Elem
// One workgroup is a subgroup and computes ROWS rows x 16 columns (shared/subgroup.wgsl). Each element of x is read
// cols / 16 times, each of w rows / ROWS times.
// The uniform is shared/matmul_params.wgsl.

@group(0) @binding(1) var<storage, read_write> x: array<Elem>;        // [batches, rows, inner]
@group(0) @binding(2) var<storage, read> w: array<Weight>;            // [batches, inner, cols]
@group(0) @binding(3) var<storage, read_write> bias: array<f32>;      // [cols]
@group(0) @binding(4) var<storage, read_write> operand: array<Elem>;  // [batches rows / operand_rows, cols]
@group(0) @binding(5) var<storage, read_write> y: array<Elem>;        // [batches, rows, cols]

// A row of w at this lane's columns.
fn load_w(i: vec2<u32>) -> vec2<f32> {
    return vec2<f32>(f32(w[i.x]), f32(w[i.y]));
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(subgroup_invocation_id) lane: u32) {
    let tiles_across = (p.cols + 15u) / 16u;
    let tiles_down = (p.rows + ROWS - 1u) / ROWS;
    let tile = linear_group(group, grid);
    let batch = tile / (tiles_across * tiles_down);
    if batch >= p.batches {
        return;
    }
    let at = tile - batch * tiles_across * tiles_down;
    let row = at / tiles_across * ROWS;
    let col = at % tiles_across * 16u + lane;
    let cols = min(vec2<u32>(col, col + 8u), vec2<u32>(p.cols - 1u));
    // Rows past the edge read the last one and are not stored.
    var x_row: array<u32, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        x_row[r] = (batch * p.rows + min(row + r, p.rows - 1u)) * p.inner;
    }
    clear_sums();
    let next = vec2<u32>(p.cols);
    let first = vec2<u32>(batch * p.inner * p.cols) + cols;
    // Beyond the last row of w, where x gives zeros, it is read again.
    let last = first + vec2<u32>((p.inner - 1u) * p.cols);
    var i = first;
    for (var k = 0u; k < p.inner; k = k + 8u) {
        let inside = k + lane < p.inner;
        let column = min(k + lane, p.inner - 1u);
        for (var r = 0u; r < ROWS; r++) {
            rows8[r] = select(0.0, f32(x[x_row[r] + column]), inside);
        }
        add0(load_w(i)); i = min(i + next, last);
        add1(load_w(i)); i = min(i + next, last);
        add2(load_w(i)); i = min(i + next, last);
        add3(load_w(i)); i = min(i + next, last);
        add4(load_w(i)); i = min(i + next, last);
        add5(load_w(i)); i = min(i + next, last);
        add6(load_w(i)); i = min(i + next, last);
        add7(load_w(i)); i = min(i + next, last);
    }
    let plain = p.has_bias == 0u && p.act == 0u && p.operand_op == OPERAND_NONE && p.scale == 1.0;
    if plain && row + ROWS <= p.rows && p.cols % 16u == 0u {
        // A whole tile without anything to do after the sums, as in Winograd's planes.
        var o = (batch * p.rows + row) * p.cols + col;
        for (var r = 0u; r < ROWS; r++) {
            y[o] = Elem(sums[r].x);
            y[o + 8u] = Elem(sums[r].y);
            o = o + p.cols;
        }
        return;
    }
    for (var r = 0u; r < ROWS; r++) {
        if row + r < p.rows {
            store(batch * p.rows + row + r, col, sums[r].x);
            store(batch * p.rows + row + r, col + 8u, sums[r].y);
        }
    }
}
