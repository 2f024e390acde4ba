// store_quad: bias and epilogue of four neighbouring columns of a product, and their store. Needs shared/epilogue.wgsl
// and the file's bias, operand and y as quads: cols is a multiple of 4.

// At `row` of y and `quad` of its columns.
fn store_quad(row: u32, quad: u32, sum: vec4f) {
    let quads = p.cols / 4u;
    var v = sum;
    if p.has_bias != 0u {
        v = v + bias[quad];
    }
    var other = vec4f();
    if p.operand_op != OPERAND_NONE {
        other = vec4f(operand[operand_row(row, p.operand_rows) * quads + quad]);
    }
    y[row * quads + quad] = vec4<Elem>(epilogue_quad(v, p.act, p.operand_op, other, p.scale));
}
