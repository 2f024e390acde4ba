// attention_products: the products of ROWS rows of one side of attention with OTHERS rows of the other, by a workgroup
// of 256: an invocation computes those of 4 rows with OWN others. Rows are read once for OTHERS others, others once for
// ROWS rows. Needs the constants ROWS and OTHERS (ROWS OTHERS <= 2048, OTHERS a multiple of 1024 / ROWS and of 4) and
//   own(second, n, head, row, column)    an element of a head's row on the one side, of the first or second product;
//   other(second, n, head, row, column)  on the other. Rows past the last read any.

const WG: u32 = 256u;
const DEPTH: u32 = 16u;         // columns that are staged at a time
const DOWN: u32 = ROWS / 4u;                // groups of 4 rows
const ACROSS: u32 = WG / DOWN;              // invocations that share 4 rows
const OWN: u32 = OTHERS / ACROSS;           // others of an invocation

var<workgroup> left: array<vec4f, 256>;     // [DEPTH, DOWN], 4 rows each
var<workgroup> right: array<vec4f, 256>;    // [DEPTH, OTHERS / 4], 4 others each

// Of the 4 rows from 4 (lane / ACROSS) after first_row on with the OWN others from OWN (lane % ACROSS) after first on.
fn products(second: bool, n: u32, head: u32, first_row: u32, first: u32, lane: u32) -> array<vec4f, OWN> {
    var s = array<vec4f, OWN>();
    for (var i = 0u; i < p.head_dim; i = i + DEPTH) {
        let inside = f32(i + lane % DEPTH < p.head_dim);
        let column = min(i + lane % DEPTH, p.head_dim - 1u);
        workgroupBarrier();
        for (var g = lane / DEPTH; g < DOWN; g = g + WG / DEPTH) {
            let row = first_row + g * 4u;
            left[lane % DEPTH * DOWN + g] = inside * vec4f(
                own(second, n, head, row, column), own(second, n, head, row + 1u, column),
                own(second, n, head, row + 2u, column), own(second, n, head, row + 3u, column));
        }
        for (var g = lane / DEPTH; g < OTHERS / 4u; g = g + WG / DEPTH) {
            let at = first + g * 4u;
            right[lane % DEPTH * (OTHERS / 4u) + g] = vec4f(
                other(second, n, head, at, column), other(second, n, head, at + 1u, column),
                other(second, n, head, at + 2u, column), other(second, n, head, at + 3u, column));
        }
        workgroupBarrier();
        for (var d = 0u; d < DEPTH; d = d + 1u) {
            let x = left[d * DOWN + lane / ACROSS];
            for (var j = 0u; j < OWN; j = j + 1u) {
                let k = lane % ACROSS * OWN + j;
                s[j] = s[j] + x * right[d * (OTHERS / 4u) + k / 4u][k % 4u];
            }
        }
    }
    return s;
}
