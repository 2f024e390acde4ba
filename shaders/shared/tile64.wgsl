// tile64: 64 rows x 64 columns of a product by a workgroup of 128. Slabs of 16 of the inner dimension are staged in
// workgroup memory; an invocation sums 8 rows (lane / 16 + 8 i) x 4 columns (from 4 (lane % 16)) in registers. Each
// element of the left side is read cols / 64 times, each of the right one rows / 64 times.
// The file says what is multiplied, in tiles of TALL rows, by quads (four neighbouring elements):
//   place(group)            takes the group's tile; first (a multiple of 16) and end of its part of the inner dimension,
//                           an empty one for groups beyond the last
//   take_row(part, row)     will ask for quads of this row of the tile as `part`
//   begin(quad), advance()  rows are read from this quad of the inner dimension on; four quads further
//   left_quad(part)         that quad of the part's row; zero past the inner dimension's end
//   right_quad(k, quad)     of row k of the right side, counted from the tile's first column; finite past the end
//   store_at(row, quad, sum)  of the tile; does nothing past the product's edges

const TALL: u32 = 64u;
const PARTS: u32 = 2u;

// [64, 5]: 16 elements of a row on the left; the fifth quad keeps rows in different banks. After that [16, 16]: rows of
// 64 columns on the right. At the end sums: [4, 128].
var<workgroup> slab: array<vec4f, 576>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let range = place(linear_group(group, grid));
    take_row(0u, lane / 4u);
    take_row(1u, lane / 4u + 32u);
    let put_left = lane / 4u * 5u + lane % 4u;
    let down = lane / 16u;
    let quad = lane % 16u;
    var sums: array<vec4f, 8>;
    begin(range.x / 4u + lane % 4u);
    var k = range.x + down;
    var a0 = vec4f(left_quad(0u)); var a1 = vec4f(left_quad(1u));
    var b0 = vec4f(right_quad(k, quad)); var b1 = vec4f(right_quad(k + 8u, quad));
    for (var done = range.x; done < range.y; done = done + 16u) {
        workgroupBarrier();
        slab[put_left] = a0;
        slab[put_left + 160u] = a1;
        slab[320u + lane] = b0;
        slab[448u + lane] = b1;
        workgroupBarrier();
        // The next slab is on its way while this one is summed.
        advance();
        k = k + 16u;
        a0 = vec4f(left_quad(0u)); a1 = vec4f(left_quad(1u));
        b0 = vec4f(right_quad(k, quad)); b1 = vec4f(right_quad(k + 8u, quad));
        for (var i = 0u; i < 4u; i++) {
            let at = 320u + i * 64u + quad;
            let w = mat4x4f(slab[at], slab[at + 16u], slab[at + 32u], slab[at + 48u]);
            for (var j = 0u; j < 8u; j++) {
                sums[j] += w * slab[(down + j * 8u) * 5u + i];
            }
        }
    }
    // Through workgroup memory, which has an index where registers have none: the loop stays small. Each invocation
    // reads only what it wrote.
    workgroupBarrier();
    slab[lane] = sums[0]; slab[lane + 128u] = sums[1]; slab[lane + 256u] = sums[2]; slab[lane + 384u] = sums[3];
    store_sums(lane, down);
    slab[lane] = sums[4]; slab[lane + 128u] = sums[5]; slab[lane + 256u] = sums[6]; slab[lane + 384u] = sums[7];
    store_sums(lane, down + 32u);
}

fn store_sums(lane: u32, row: u32) {
    for (var j = 0u; j < 4u; j++) {
        store_at(row + j * 8u, lane % 16u, slab[lane + j * 128u]);
    }
}
