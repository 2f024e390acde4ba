// epilogue: what follows a sum before it is stored: y = (activate(sum) ∘ operand) * scale.
// The kernel's Params ends with the members act, operand_op, operand_rows, scale. Needs shared/activation.wgsl.

const OPERAND_NONE: u32 = 0u;
const OPERAND_ADD: u32 = 1u;
const OPERAND_MUL: u32 = 2u;

fn epilogue(sum: f32, act: u32, operand_op: u32, operand: f32, scale: f32) -> f32 {
    var y = activate(sum, act);
    if operand_op == OPERAND_ADD {
        y = y + operand;
    } else if operand_op == OPERAND_MUL {
        y = y * operand;
    }
    return y * scale;
}

// The same of four.
fn epilogue_quad(sum: vec4f, act: u32, operand_op: u32, operand: vec4f, scale: f32) -> vec4f {
    return vec4f(
        epilogue(sum.x, act, operand_op, operand.x, scale), epilogue(sum.y, act, operand_op, operand.y, scale),
        epilogue(sum.z, act, operand_op, operand.z, scale), epilogue(sum.w, act, operand_op, operand.w, scale));
}

// The operand's row for a row of y. A division costs software adapters more than the rest of the epilogue.
fn operand_row(row: u32, operand_rows: u32) -> u32 {
    if operand_rows == 1u {
        return row;
    }
    return row / operand_rows;
}
