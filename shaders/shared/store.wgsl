// store: bias and epilogue of one element of a product, and its store; none past the last column. Needs
// shared/epilogue.wgsl and the file's bias, operand and y.

fn store(row: u32, col: u32, sum: f32) {
    if col >= p.cols {
        return;
    }
    var v = sum;
    if p.has_bias != 0u {
        v = v + bias[col];
    }
    var other = 0.0;
    if p.operand_op != OPERAND_NONE {
        other = f32(operand[operand_row(row, p.operand_rows) * p.cols + col]);
    }
    y[row * p.cols + col] = Elem(epilogue(v, p.act, p.operand_op, other, p.scale));
}
