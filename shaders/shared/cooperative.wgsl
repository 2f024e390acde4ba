// cooperative: a tile of a product of f16 in cooperative matrices with f32 sums: 128 rows x 64 columns in matrices of
// 16 x 16 by four subgroups, 64 x 64 in those of 8 x 8 by eight (shared/matrices16.wgsl, matrices8.wgsl). Slabs of 16
// of the inner dimension are staged in workgroup memory, zeros past every edge's end; a subgroup sums 4 x 2 matrices.
// Each element of the left side is read cols / 64 times, each of the right one rows / TALL times. Sums pass through
// workgroup memory, so that bias, epilogue and edges are plain code. The engine takes it on an adapter only after its
// result matched there.
// The file says what is multiplied, as for shared/tile64.wgsl.

const TALL: u32 = 8u * EDGE;
const ACROSS: u32 = SUBGROUPS / 2u;  // subgroups side by side
const PARTS: u32 = 8u;               // most quads of a side that an invocation stages

// Rows are 16 bytes more than a power of two apart, or 32, so that a matrix's rows lie in different banks.
const LEFT_ROW: u32 = 24u;
const RIGHT_ROW: u32 = 72u;
const STAGE_ROW: u32 = EDGE;

var<workgroup> left: array<Staged, TALL * LEFT_ROW / STAGED>;      // [TALL, 24]: 16 elements of a row
var<workgroup> right: array<Staged, 16u * RIGHT_ROW / STAGED>;     // [16, 72]: 64 columns
var<workgroup> stage: array<f32, SUBGROUPS * EDGE * EDGE>;         // a matrix of sums for each subgroup; zeros at first
var<private> left_next: array<vec4<f16>, PARTS>;
var<private> right_next: array<vec4<f16>, PARTS>;

@compute @workgroup_size(SUBGROUPS * SUBGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32,
        @builtin(subgroup_id) subgroup: u32) {
    let range = place(linear_group(group, grid));
    for (var part = 0u; part < TALL * 4u / invocations(); part++) {
        take_row(part, (lane + part * invocations()) / 4u);
    }
    let rows = subgroup / ACROSS * 4u * EDGE;  // of this subgroup
    let cols = subgroup % ACROSS * 2u * EDGE;
    var s00 = load_sum(0u); var s01 = s00;
    var s10 = s00; var s11 = s00;
    var s20 = s00; var s21 = s00;
    var s30 = s00; var s31 = s00;
    begin(range.x / 4u + lane % 4u);
    fetch(range.x, lane);
    for (var done = range.x; done < range.y; done = done + 16u) {
        workgroupBarrier();
        for (var part = 0u; part < TALL * 4u / invocations(); part++) {
            put_left((lane + part * invocations()) / 4u * (LEFT_ROW / 4u) + lane % 4u, left_next[part]);
        }
        for (var part = 0u; part < 256u / invocations(); part++) {
            put_right((lane + part * invocations()) / 16u * (RIGHT_ROW / 4u) + lane % 16u, right_next[part]);
        }
        workgroupBarrier();
        // The next slab is on its way while this one is summed.
        advance();
        fetch(done + 16u, lane);
        for (var k = 0u; k < 16u; k = k + EDGE) {
            let w0 = load_right(k * RIGHT_ROW + cols);
            let w1 = load_right(k * RIGHT_ROW + cols + EDGE);
            let x0 = load_left(rows * LEFT_ROW + k);
            let x1 = load_left((rows + EDGE) * LEFT_ROW + k);
            let x2 = load_left((rows + 2u * EDGE) * LEFT_ROW + k);
            let x3 = load_left((rows + 3u * EDGE) * LEFT_ROW + k);
            s00 = multiply_add(x0, w0, s00); s01 = multiply_add(x0, w1, s01);
            s10 = multiply_add(x1, w0, s10); s11 = multiply_add(x1, w1, s11);
            s20 = multiply_add(x2, w0, s20); s21 = multiply_add(x2, w1, s21);
            s30 = multiply_add(x3, w0, s30); s31 = multiply_add(x3, w1, s31);
        }
    }
    let own = subgroup * EDGE * EDGE;
    store_sum(s00, own); store_stage(lane, 0u, 0u);
    store_sum(s01, own); store_stage(lane, 0u, EDGE);
    store_sum(s10, own); store_stage(lane, EDGE, 0u);
    store_sum(s11, own); store_stage(lane, EDGE, EDGE);
    store_sum(s20, own); store_stage(lane, 2u * EDGE, 0u);
    store_sum(s21, own); store_stage(lane, 2u * EDGE, EDGE);
    store_sum(s30, own); store_stage(lane, 3u * EDGE, 0u);
    store_sum(s31, own); store_stage(lane, 3u * EDGE, EDGE);
}

// Invocations of the workgroup: at most 256, and as many as stage PARTS quads each.
fn invocations() -> u32 {
    return SUBGROUPS * SUBGROUP;
}

// Asks for what this invocation stages of the slab from `first` of the inner dimension on.
fn fetch(first: u32, lane: u32) {
    for (var part = 0u; part < TALL * 4u / invocations(); part++) {
        left_next[part] = left_quad(part);
    }
    for (var part = 0u; part < 256u / invocations(); part++) {
        right_next[part] = right_quad(first + (lane + part * invocations()) / 16u, lane % 16u);
    }
}

// Stores the matrices at `row` and `col` of each subgroup's part.
fn store_stage(lane: u32, row: u32, col: u32) {
    workgroupBarrier();
    for (var i = lane; i < SUBGROUPS * EDGE * EDGE / 4u; i = i + invocations()) {
        let part = i / (EDGE * EDGE / 4u);
        let r = i / (EDGE / 4u) % EDGE;
        let sum = vec4f(stage[i * 4u], stage[i * 4u + 1u], stage[i * 4u + 2u], stage[i * 4u + 3u]);
        store_at(part / ACROSS * 4u * EDGE + row + r, (part % ACROSS * 2u * EDGE + col) / 4u + i % (EDGE / 4u), sum);
    }
    workgroupBarrier();
}
