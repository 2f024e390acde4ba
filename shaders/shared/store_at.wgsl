// store_at: the epilogue of an element of y `[rows, cols]` and its store. Needs shared/epilogue.wgsl and the file's
// operand and y.

// Element `at` of y. Only an operand whose rows are shared needs a division.
fn store_at(at: u32, cols: u32, value: f32) {
    var other = 0.0;
    if p.operand_op != OPERAND_NONE {
        var own = at;
        if p.operand_rows != 1u {
            let row = at / cols;
            own = row / p.operand_rows * cols + (at - row * cols);
        }
        other = f32(operand[own]);
    }
    y[at] = Elem(epilogue(value, p.act, p.operand_op, other, p.scale));
}
