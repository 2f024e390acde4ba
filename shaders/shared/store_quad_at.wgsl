// store_quad_at: the epilogue of four neighbouring columns, and their store. Needs shared/epilogue.wgsl and the file's
// operand and y as quads: cols is a multiple of 4.

// At quad `i` of y.
fn store_quad_at(i: u32, v: vec4f) {
    var other = vec4f();
    if p.operand_op != OPERAND_NONE {
        let quads = p.cols / 4u;
        let row = i / quads;
        other = vec4f(operand[operand_row(row, p.operand_rows) * quads + (i - row * quads)]);
    }
    y[i] = vec4<Elem>(epilogue_quad(v, p.act, p.operand_op, other, p.scale));
}
