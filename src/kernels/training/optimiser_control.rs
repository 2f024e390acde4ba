//! What one optimiser step does: the gradients' norm, clipping (Pascanu et al. 2013, arXiv:1211.5063), loss scaling
//! (Micikevicius et al. 2018, arXiv:1710.03740), and the numbers of the schedule at the steps so far.

use crate::graph::{Graph, Tensor};
use crate::kernels::{Kernel, REDUCE, REDUCE_SUBGROUP, Shader, defined_in_f32_all};

params! {
    /// Squares.
    count: u32,
    /// Rows of the schedule.
    rows: u32,
    /// Items of a batch.
    items: u32,
}

/// Numbers of the schedule before its rows.
pub const HEAD: usize = 4;
/// Numbers of a row.
pub const ROW: usize = 8;
/// Numbers of the state: steps taken, loss scale, steps since it changed, steps left out.
pub const STATE: usize = 4;
/// Numbers of the control: 1 if the step is taken, the gradients' factor, rate over bias correction, 1 / √(second bias
/// correction), rate times decay, the average's decay, the norm, the loss scale.
pub const CONTROL: usize = 8;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "optimiser_control",
    shaders: &[
        Shader::plain("optimiser_control", wgsl!("training/optimiser_control"), &[REDUCE], |_, _| [1; 3]),
        Shader::narrow(
            "optimiser_control_subgroup",
            wgsl!("training/optimiser_control"),
            &[REDUCE_SUBGROUP],
            |_, _| [1; 3],
        ),
    ],
    fields: Params::FIELDS,
    reference: |p, x, y| defined_in_f32_all(compute, p, x, y),
    cpu: compute,
    ..Kernel::PLAIN
};

/// From the squares (f32 input of the graph) and the schedule `[4 + 8 · rows]`: state, control and the loss scale of each
/// item of the next batch, which are updated.
#[track_caller]
pub fn optimiser_control(
    g: &mut Graph,
    squares: &Tensor,
    schedule: &Tensor,
    [state, control, factors]: [&Tensor; 3],
) {
    let rows = schedule.len().saturating_sub(HEAD) / ROW;
    assert!(rows > 0, "a schedule of {:?}", schedule.shape);
    assert_eq!((state.len(), control.len()), (STATE, CONTROL), "state and control");
    let p = Params { count: squares.len() as u32, rows: rows as u32, items: factors.len() as u32 };
    let outputs = [state, control, factors];
    g.push_into(&KERNEL, "optimiser_control", p.bytes(), &[squares, schedule], &outputs);
}

fn compute(params: &[u8], inputs: &[&[f32]], outputs: &mut [&mut [f32]]) {
    let [state, control, factors] = outputs else { return };
    decide(&Params::read(params), inputs, state, control);
    factors.fill(state[1]);
}

fn decide(p: &Params, inputs: &[&[f32]], state: &mut [f32], control: &mut [f32]) {
    let schedule = inputs[1];
    let total: f64 = inputs[0].iter().map(|v| f64::from(*v)).sum();
    let scale = state[1];
    let taken = total.is_finite() && total <= f64::from(f32::MAX);
    control[0] = f32::from(u8::from(taken));
    control[7] = scale;
    if !taken {
        control[6] = 0.0;
        state[1] = (scale * 0.5).max(1.0);
        state[2] = 0.0;
        state[3] += 1.0;
        return;
    }
    let norm = (total.sqrt() / f64::from(scale)) as f32;
    let row = ((state[0] - schedule[0]).max(0.0) as usize).min(p.rows as usize - 1);
    let row = &schedule[HEAD + ROW * row..][..ROW];
    let factor = if schedule[1] > 0.0 { (schedule[1] / (norm + 1e-6)).min(1.0) } else { 1.0 };
    control[1] = factor / scale;
    control[2..6].copy_from_slice(&row[1..5]);
    control[6] = norm;
    state[0] += 1.0;
    state[2] += 1.0;
    if schedule[2] > 0.0 && state[2] >= schedule[2] {
        state[1] = (scale * 2.0).min(schedule[3].max(scale));
        state[2] = 0.0;
    }
}
