// tile64: 64 rows x 64 columns of a product by a workgroup of 128. Slabs of 16 of the inner dimension are staged in
// workgroup memory; an invocation sums 8 rows (lane / 16 + 8 i) x 4 columns (from 4 (lane % 16)) in registers. Each
// element of the left side is read cols / 64 times, each of the right one rows / 64 times.
// Needs of the file, both zero or any value past the end of the inner dimension, where one of them must be zero:
//   left_quad(part, quad)   four elements of the inner dimension, of row lane / 4 + 32 part
//   right_quad(k, quad)     row k of the right side, four columns

// [64, 5]: 16 elements of a row on the left; the fifth quad keeps rows in different banks. After that [16, 16]: rows of
// 64 columns on the right. At the end sums: [4, 128].
var<workgroup> slab: array<vec4f, 576>;
var<private> sums: array<vec4f, 8>;

// Elements `first` to `end` of the inner dimension; `first` a multiple of 16.
fn multiply(lane: u32, first: u32, end: u32) {
    let put_left = lane / 4u * 5u + lane % 4u;
    let k_right = lane / 16u;
    let quad = lane % 16u;
    for (var i = 0u; i < 8u; i++) {
        sums[i] = vec4f();
    }
    var a0 = left_quad(0u, first / 4u + lane % 4u);
    var a1 = left_quad(1u, first / 4u + lane % 4u);
    var b0 = right_quad(first + k_right, quad);
    var b1 = right_quad(first + k_right + 8u, quad);
    for (var k = first; k < end; k = k + 16u) {
        workgroupBarrier();
        slab[put_left] = a0;
        slab[put_left + 160u] = a1;
        slab[320u + lane] = b0;
        slab[448u + lane] = b1;
        workgroupBarrier();
        // The next slab is on its way while this one is summed.
        a0 = left_quad(0u, k / 4u + 4u + lane % 4u);
        a1 = left_quad(1u, k / 4u + 4u + lane % 4u);
        b0 = right_quad(k + 16u + k_right, quad);
        b1 = right_quad(k + 24u + k_right, quad);
        for (var q = 0u; q < 4u; q++) {
            let at = 320u + q * 64u + quad;
            let w = mat4x4f(slab[at], slab[at + 16u], slab[at + 32u], slab[at + 48u]);
            for (var i = 0u; i < 8u; i++) {
                sums[i] += w * slab[(k_right + i * 8u) * 5u + q];
            }
        }
    }
    workgroupBarrier();
}

// Hands four of an invocation's sums to workgroup memory, so that a loop may store them: registers have no index.
fn put_sums(lane: u32, s0: vec4f, s1: vec4f, s2: vec4f, s3: vec4f) {
    slab[lane] = s0;
    slab[lane + 128u] = s1;
    slab[lane + 256u] = s2;
    slab[lane + 384u] = s3;
}
