// group_quads: which quads of the two inputs of a group norm, a and b side by side, an invocation visits. A workgroup
// has some pixels, p.strip of them but for a picture's last strip, and 1 / p.runs of the channels. Needs
// `override WG: u32`.

// An invocation's part: `visits` pixels, `step` apart. Quad `at` of a, or of b if in_b, is its first, the next is
// `stride` further; in [a | b] they are `out` and `out_stride`. `quad` counts from the first of all channels, `column`
// from the first of the workgroup's `columns`, `row` among the workgroup's pixels, which are `pixels`.
struct Place {
    in_b: bool, at: u32, stride: u32, out: u32, out_stride: u32, visits: u32,
    quad: u32, column: u32, columns: u32, row: u32, step: u32, pixels: u32,
}

// Of the workgroup (strip, run of channels, picture). Invocations past the last whole row of quads have no visits.
fn place(group: vec3<u32>, lane: u32) -> Place {
    let quads_a = p.in_a / 4u;
    let quads_b = p.in_b / 4u;
    let quads = quads_a + quads_b;
    let columns = quads / p.runs;
    let step = WG / columns;
    let row = lane / columns;
    let column = lane - row * columns;
    let start = group.x * p.strip;
    let pixels = min(p.strip, p.pixels - start);
    let visits = select(0u, (pixels + step - 1u - min(row, step - 1u)) / step, row < step);
    let quad = group.y * columns + column;
    let pixel = group.z * p.pixels + start + row;
    let in_b = quad >= quads_a;
    let at = select(pixel * quads_a + quad, pixel * quads_b + quad - quads_a, in_b);
    return Place(
        in_b, at, step * select(quads_a, quads_b, in_b), pixel * quads + quad, step * quads, visits,
        quad, column, columns, row, step, pixels);
}
