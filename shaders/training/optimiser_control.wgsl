// optimiser_control: what one optimiser step does, from the gradients' squares, the schedule and the steps so far
//   squares   [count]       f32   parts of Σ gradient², of gradients times the loss scale
//   schedule  [4 + 8 rows]  f32   first step, most norm (0: any), steps to a larger scale (0: never), largest scale;
//                                 then of each step from the first on: rate, rate over bias correction,
//                                 1 / √(second bias correction), rate times decay, the average's decay, 3 unused
//   state     [4]           f32   in place: steps taken, loss scale, steps since it changed, steps left out
//   control   [8]           f32   in place: 1 if the step is taken, factor of the gradients, rate over bias correction,
//                                 1 / √(second bias correction), rate times decay, average's decay, norm, loss scale
//   factors   [N]           f32   in place: the loss scale of the next step, for each item of its batch
// One workgroup. A norm that is no number leaves the step out and halves the scale (Micikevicius et al. 2018,
// arXiv:1710.03740). One pass over the squares.
struct Params { count: u32, rows: u32, items: u32 }

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> squares: array<f32>;  // [count]
@group(0) @binding(2) var<storage, read> schedule: array<f32>;       // [4 + 8 rows]
@group(0) @binding(3) var<storage, read_write> state: array<f32>;    // [4]
@group(0) @binding(4) var<storage, read_write> control: array<f32>;  // [8]
@group(0) @binding(5) var<storage, read_write> factors: array<f32>;  // [N]

// Whether it is finite: comparisons with what is no number may be optimised away.
fn is_number(v: f32) -> bool {
    return (bitcast<u32>(v) & 0x7f800000u) != 0x7f800000u;
}

fn take_step(norm: f32, scale: f32) {
    let row = 4u + 8u * min(u32(max(state[0] - schedule[0], 0.0)), p.rows - 1u);
    let most = schedule[1];
    var factor = 1.0;
    if most > 0.0 {
        factor = min(1.0, most / (norm + 1e-6));
    }
    control[1] = factor / scale;
    control[2] = schedule[row + 1u];
    control[3] = schedule[row + 2u];
    control[4] = schedule[row + 3u];
    control[5] = schedule[row + 4u];
    control[6] = norm;
    state[0] = state[0] + 1.0;
    state[2] = state[2] + 1.0;
    if schedule[2] > 0.0 && state[2] >= schedule[2] {
        state[1] = min(scale * 2.0, max(schedule[3], scale));
        state[2] = 0.0;
    }
}

fn leave_out(scale: f32) {
    control[6] = 0.0;
    state[1] = max(scale * 0.5, 1.0);
    state[2] = 0.0;
    state[3] = state[3] + 1.0;
}

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    var lost = 0.0;
    for (var i = lane; i < p.count; i = i + WG) {
        if is_number(squares[i]) {
            sum = sum + squares[i];
        } else {
            lost = 1.0;
        }
    }
    let any_lost = workgroup_sum(lost, lane);
    let total = workgroup_sum(sum, lane);
    let taken = any_lost == 0.0 && is_number(total);
    let scale = state[1];
    workgroupBarrier();
    storageBarrier();
    if lane == 0u {
        control[0] = select(0.0, 1.0, taken);
        control[7] = scale;
        if taken {
            take_step(sqrt(total) / scale, scale);
        } else {
            leave_out(scale);
        }
    }
    storageBarrier();
    workgroupBarrier();
    for (var i = lane; i < p.items; i = i + WG) {
        factors[i] = state[1];
    }
}
