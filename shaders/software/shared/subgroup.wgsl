// subgroup: ROWS rows x 16 columns of a product by a subgroup of 8, in registers: lane l holds columns l and l + 8.
// Eight elements of a row of x come in one load, one a lane, and are handed round by broadcasts: on a software
// adapter a load costs ten times what a broadcast does. Loops over ROWS are unrolled, so the arrays are registers. Needs rows12.wgsl or rows16.wgsl.

var<private> rows8: array<f32, ROWS>;       // of each row of x, the element k + lane
var<private> sums: array<vec2<f32>, ROWS>;

// Adds row k + 0 of w (this lane's two columns) times column k + 0 of x; the others likewise.
fn add0(w: vec2<f32>) { for (var r = 0u; r < ROWS; r++) { sums[r] += subgroupBroadcast(rows8[r], 0u) * w; } }
fn add1(w: vec2<f32>) { for (var r = 0u; r < ROWS; r++) { sums[r] += subgroupBroadcast(rows8[r], 1u) * w; } }
fn add2(w: vec2<f32>) { for (var r = 0u; r < ROWS; r++) { sums[r] += subgroupBroadcast(rows8[r], 2u) * w; } }
fn add3(w: vec2<f32>) { for (var r = 0u; r < ROWS; r++) { sums[r] += subgroupBroadcast(rows8[r], 3u) * w; } }
fn add4(w: vec2<f32>) { for (var r = 0u; r < ROWS; r++) { sums[r] += subgroupBroadcast(rows8[r], 4u) * w; } }
fn add5(w: vec2<f32>) { for (var r = 0u; r < ROWS; r++) { sums[r] += subgroupBroadcast(rows8[r], 5u) * w; } }
fn add6(w: vec2<f32>) { for (var r = 0u; r < ROWS; r++) { sums[r] += subgroupBroadcast(rows8[r], 6u) * w; } }
fn add7(w: vec2<f32>) { for (var r = 0u; r < ROWS; r++) { sums[r] += subgroupBroadcast(rows8[r], 7u) * w; } }

fn clear_sums() { for (var r = 0u; r < ROWS; r++) { sums[r] = vec2<f32>(); } }
