// matmul_thin: y = epilogue(x · w + bias), as matmul.wgsl, for one product of few rows; cols a multiple of 4
//   x        [rows, inner]  Elem
//   w        [inner, cols]  Weight
//   bias     [cols]         f32
//   operand  [rows / operand_rows, cols]  Elem
//   y        [rows, cols]   Elem
// One workgroup computes 4 rows x 32 columns: each of 16 slices of the inner dimension, in turn, by 8 invocations of
// four columns, whose sums meet in workgroup memory. w is read rows / 4 times, x cols / 32 times.
// The uniform is shared/matmul_params.wgsl.

@group(0) @binding(1) var<storage, read_write> x: array<Elem>;              // [rows, inner]
@group(0) @binding(2) var<storage, read> w: array<vec4<Weight>>;            // [inner, cols]
@group(0) @binding(3) var<storage, read_write> bias: array<vec4f>;          // [cols]
@group(0) @binding(4) var<storage, read_write> operand: array<vec4<Elem>>;  // [rows / operand_rows, cols]
@group(0) @binding(5) var<storage, read_write> y: array<vec4<Elem>>;        // [rows, cols]

const SLICES: u32 = 16u;

var<workgroup> sums: array<vec4f, 512>;  // [4 rows, SLICES, 8]

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let quads = p.cols / 4u;
    let row = group.y * 4u;
    let quad = group.x * 8u + lane % 8u;
    // Rows and columns past the edge read the last ones and are not stored.
    let r = min(vec4<u32>(row) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.rows - 1u)) * p.inner;
    let q = min(quad, quads - 1u);
    var s0 = vec4f(); var s1 = vec4f(); var s2 = vec4f(); var s3 = vec4f();
    for (var k = lane / 8u; k < p.inner; k = k + SLICES) {
        let u = vec4f(w[k * quads + q]);
        s0 += f32(x[r.x + k]) * u;
        s1 += f32(x[r.y + k]) * u;
        s2 += f32(x[r.z + k]) * u;
        s3 += f32(x[r.w + k]) * u;
    }
    sums[lane] = s0; sums[lane + 128u] = s1; sums[lane + 256u] = s2; sums[lane + 384u] = s3;
    workgroupBarrier();
    if lane < 32u && row + lane / 8u < p.rows && quad < quads {
        var sum = vec4f();
        for (var s = 0u; s < SLICES; s++) {
            sum += sums[(lane / 8u * SLICES + s) * 8u + lane % 8u];
        }
        store_quad(row + lane / 8u, quad, sum);
    }
}
