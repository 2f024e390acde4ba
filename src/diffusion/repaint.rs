//! Keeping the known part of a picture while a model that was never trained for it draws the rest: RePaint (Lugmayr et
//! al. 2022, arXiv:2201.09865). After each step the known part is the picture itself, noised as far as the sample is;
//! stretches of steps are gone through several times, so that both parts come to fit.

use super::step::Step;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// How a run keeps what it is to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// x̂₀ is replaced before it is clipped, as for networks that were trained to see the picture (GLIDE's inpainting).
    Estimate,
    /// The sample is replaced after each step (RePaint).
    Sample(Resampling),
}

/// How often stretches of steps are gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resampling {
    /// Times that each stretch is gone through; 1 goes back nowhere.
    pub times: usize,
    /// Steps of a stretch.
    pub jump: usize,
}

impl Resampling {
    /// Three times in stretches of five steps.
    pub const DEFAULT: Resampling = Resampling { times: 3, jump: 5 };
}

impl Default for Resampling {
    fn default() -> Self {
        Resampling::DEFAULT
    }
}

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    /// The step of this index.
    Step(usize),
    /// Noise is added to the sample before step `from` (past the last one at the end), up to where step `to` begins.
    Back { from: usize, to: usize },
}

/// What a run of `steps` steps does, one after another.
fn moves(steps: usize, resampling: Option<Resampling>) -> Vec<Move> {
    let Some(Resampling { times, jump }) = resampling else { return (0..steps).map(Move::Step).collect() };
    let jump = jump.max(1);
    // Jumps begin where 1, 1 + jump, 1 + 2 jump, … steps are left, and end within the run.
    let may_jump = |left: usize| left % jump == 1 % jump && left + jump <= steps;
    let mut jumps: Vec<usize> = (0..=steps).map(|left| if may_jump(left) { times - 1 } else { 0 }).collect();
    jumps[0] = 0;
    let (mut moves, mut left) = (Vec::new(), steps);
    while left > 0 {
        moves.push(Move::Step(steps - left));
        left -= 1;
        if jumps[left] > 0 {
            jumps[left] -= 1;
            moves.push(Move::Back { from: steps - left, to: steps - left - jump });
            left += jump;
        }
    }
    moves
}

/// The calls of the network in a run that keeps its sample so, one after another: of `calls`, which begin at step `first`,
/// and where the run goes back to a step those that `from` there ([`Step::begins`]), for nothing is remembered then.
///
/// Errors: those of `from`.
pub(crate) fn resampled(
    calls: Vec<Step>,
    resampling: Resampling,
    from: impl Fn(usize) -> Result<Vec<Step>>,
) -> Result<Vec<Step>> {
    let (Some(begin), Some(end)) = (calls.first(), calls.last()) else { return Ok(calls) };
    let (first, count) = (begin.step, end.step + 1 - begin.step);
    let (mut list, mut run) = (calls, Vec::new());
    for next in moves(count, Some(resampling)) {
        match next {
            Move::Step(i) => run.extend(list.iter().filter(|call| call.step == first + i)),
            Move::Back { to, .. } => list = from(first + to)?,
        }
    }
    Ok(run)
}

/// What a run keeps of a picture.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The picture `[N, H, W, C]`.
    pub picture: Vec<f32>,
    /// Where it is kept, `[N, H, W]`: 1 is kept, 0 is drawn.
    pub keep: Vec<f32>,
    /// How it is kept.
    pub how: Keeping,
}

impl Kept {
    /// The picture with its share beside it, `[N, H, W, C + 1]`, as the kernels take it.
    pub(crate) fn known(&self) -> Vec<f32> {
        let channels = self.picture.len() / self.keep.len();
        let pixels = self.picture.chunks_exact(channels).zip(&self.keep);
        pixels.flat_map(|(pixel, keep)| pixel.iter().copied().chain([*keep])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_resampling_every_step_is_taken_once() {
        assert_eq!(moves(3, None), [Move::Step(0), Move::Step(1), Move::Step(2)]);
        assert_eq!(moves(3, Some(Resampling { times: 1, jump: 2 })), moves(3, None));
    }

    /// The published schedule (`get_schedule_jump`) for 6 steps, jumps of 2, twice each.
    #[test]
    fn stretches_are_gone_through_as_published() {
        use Move::{Back, Step};
        let expected = [
            [Step(0), Step(1), Step(2), Back { from: 3, to: 1 }].as_slice(),
            &[Step(1), Step(2), Step(3), Step(4), Back { from: 5, to: 3 }],
            &[Step(3), Step(4), Step(5)],
        ];
        let expected = expected.concat();
        assert_eq!(moves(6, Some(Resampling { times: 2, jump: 2 })), expected);
    }

    #[test]
    fn each_move_begins_where_the_one_before_ended() {
        for (steps, times, jump) in [(25, 3, 5), (10, 10, 1), (4, 2, 10), (1, 5, 1), (7, 2, 3)] {
            let (mut at, mut taken) = (0, 0);
            for m in moves(steps, Some(Resampling { times, jump })) {
                match m {
                    Move::Step(i) => {
                        assert_eq!(i, at);
                        (at, taken) = (at + 1, taken + 1);
                    }
                    Move::Back { from, to } => {
                        assert_eq!((from, to + jump), (at, at));
                        at = to;
                    }
                }
            }
            assert_eq!(at, steps);
            assert!(taken >= steps);
        }
    }
}
