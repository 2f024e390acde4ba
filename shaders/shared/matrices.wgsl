// matrices: cooperative matrices in workgroup memory, read and written by an element's place. Needs
// shared/matrices16.wgsl or matrices8.wgsl, and the file's arrays with the elements from row to row (multiples of 8):
//   left: array<Staged>, LEFT_ROW    right: array<Staged>, RIGHT_ROW    stage: array<f32>, STAGE_ROW

override SUBGROUP: u32 = 32u;  // invocations of a subgroup: the device says how many it has

fn load_left(at: u32) -> Left {
    return coopLoadT<Left>(&left[at / STAGED], LEFT_ROW / STAGED);
}

fn load_right(at: u32) -> Right {
    return coopLoadT<Right>(&right[at / STAGED], RIGHT_ROW / STAGED);
}

// A row of `right` is a column of the matrix.
fn load_right_turned(at: u32) -> Right {
    return coopLoad<Right>(&right[at / STAGED], RIGHT_ROW / STAGED);
}

fn load_sum(at: u32) -> Sum {
    return coopLoadT<Sum>(&stage[at], STAGE_ROW);
}

fn store_sum(sum: Sum, at: u32) {
    coopStoreT(sum, &stage[at], STAGE_ROW);
}

fn multiply_add(x: Left, w: Right, sum: Sum) -> Sum {
    return coopMultiplyAdd(x, w, sum);
}
