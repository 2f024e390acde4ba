// cooperative: 128 rows x 64 columns of a product of f16 by a workgroup of four subgroups of 32, in cooperative
// matrices of 16 x 16 with f32 sums. Slabs of 16 of the inner dimension are staged in workgroup memory, zeros past every
// edge's end; a subgroup sums 64 rows x 32 columns. Each element of the left side is read cols / 64 times, each of the
// right one rows / 128 times. Sums pass through workgroup memory, so that bias, epilogue and edges are plain code.
// It translates to SPIR-V (Metal has no matrices of this size, HLSL none at all) but has run on no adapter yet; the
// engine takes it on an adapter only after its result matched there.
// The file says what is multiplied, as for shared/tile64.wgsl.

const TALL: u32 = 128u;
const PARTS: u32 = 4u;

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;

// Rows are 16 bytes more than a power of two apart, or 32, so that a matrix's rows lie in different banks.
var<workgroup> left: array<vec4<f16>, 768>;   // [128, 6]: 16 elements of a row, two quads unused
var<workgroup> right: array<vec4<f16>, 288>;  // [16, 18]: 64 columns, two quads unused
var<workgroup> stage: array<f32, 1024>;       // [4, 16, 16]: a matrix of sums for each subgroup; zeros at first

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32, @builtin(subgroup_id) subgroup: u32) {
    let range = place(linear_group(group, grid));
    for (var part = 0u; part < PARTS; part++) {
        take_row(part, lane / 4u + part * 32u);
    }
    let put_left = lane / 4u * 6u + lane % 4u;
    let put_right = lane / 16u * 18u + lane % 16u;
    let rows = subgroup / 2u * 64u * 6u;  // of this subgroup in `left`
    let cols = subgroup % 2u * 8u;        // in `right`
    var s00 = coopLoadT<Sum>(&stage[0], 16u); var s01 = s00;
    var s10 = s00; var s11 = s00;
    var s20 = s00; var s21 = s00;
    var s30 = s00; var s31 = s00;
    begin(range.x / 4u + lane % 4u);
    var k = range.x + lane / 16u;
    var a0 = left_quad(0u); var a1 = left_quad(1u); var a2 = left_quad(2u); var a3 = left_quad(3u);
    var b0 = right_quad(k, lane % 16u); var b1 = right_quad(k + 8u, lane % 16u);
    for (var done = range.x; done < range.y; done = done + 16u) {
        workgroupBarrier();
        left[put_left] = a0; left[put_left + 192u] = a1; left[put_left + 384u] = a2; left[put_left + 576u] = a3;
        right[put_right] = b0; right[put_right + 144u] = b1;
        workgroupBarrier();
        // The next slab is on its way while this one is summed.
        advance();
        k = k + 16u;
        a0 = left_quad(0u); a1 = left_quad(1u); a2 = left_quad(2u); a3 = left_quad(3u);
        b0 = right_quad(k, lane % 16u); b1 = right_quad(k + 8u, lane % 16u);
        let w0 = coopLoadT<Right>(&right[cols], 18u);
        let w1 = coopLoadT<Right>(&right[cols + 4u], 18u);
        let x0 = coopLoadT<Left>(&left[rows], 6u);
        let x1 = coopLoadT<Left>(&left[rows + 96u], 6u);
        let x2 = coopLoadT<Left>(&left[rows + 192u], 6u);
        let x3 = coopLoadT<Left>(&left[rows + 288u], 6u);
        s00 = coopMultiplyAdd(x0, w0, s00); s01 = coopMultiplyAdd(x0, w1, s01);
        s10 = coopMultiplyAdd(x1, w0, s10); s11 = coopMultiplyAdd(x1, w1, s11);
        s20 = coopMultiplyAdd(x2, w0, s20); s21 = coopMultiplyAdd(x2, w1, s21);
        s30 = coopMultiplyAdd(x3, w0, s30); s31 = coopMultiplyAdd(x3, w1, s31);
    }
    let own = subgroup * 256u;
    coopStoreT(s00, &stage[own], 16u); store_stage(lane, 0u, 0u);
    coopStoreT(s01, &stage[own], 16u); store_stage(lane, 0u, 4u);
    coopStoreT(s10, &stage[own], 16u); store_stage(lane, 16u, 0u);
    coopStoreT(s11, &stage[own], 16u); store_stage(lane, 16u, 4u);
    coopStoreT(s20, &stage[own], 16u); store_stage(lane, 32u, 0u);
    coopStoreT(s21, &stage[own], 16u); store_stage(lane, 32u, 4u);
    coopStoreT(s30, &stage[own], 16u); store_stage(lane, 48u, 0u);
    coopStoreT(s31, &stage[own], 16u); store_stage(lane, 48u, 4u);
}

// Stores the matrices at `row` and quad `quad` of each subgroup's part.
fn store_stage(lane: u32, row: u32, quad: u32) {
    workgroupBarrier();
    for (var i = lane; i < 256u; i = i + 128u) {
        let part = i / 64u;
        let sum = vec4f(stage[i * 4u], stage[i * 4u + 1u], stage[i * 4u + 2u], stage[i * 4u + 3u]);
        store_at(part / 2u * 64u + row + i / 4u % 16u, part % 2u * 8u + quad + i % 4u, sum);
    }
    workgroupBarrier();
}
