//! The search for a fixed point x = g(x) by Anderson's acceleration (1965) from the last two evaluations: the next x is what
//! would be best on the line through them if g were linear. Longer memories were no better on trained decoders.

use crate::graph::{Graph, Tensor};
use crate::kernels::step::Real;
use crate::kernels::{Cost, Kernel, REDUCE, Shader};
use rayon::prelude::*;

params! {
    /// Elements of a picture.
    item: u32,
    /// Root mean square of g(x) − x from which on a picture stays at its answer.
    settled: f32,
}

/// Pictures that a search remembers.
pub const MEMORY: usize = 4;
/// Numbers that it finds: the smallest root mean square of g(x) − x, and how often g was evaluated, 0 where it begins.
pub const FOUND: usize = 2;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "fixed_point",
    shaders: &[Shader::plain("fixed_point", wgsl!("sampling/fixed_point"), &[REDUCE], |_, x| {
        [x[0] as u32, 1, 1]
    })],
    fields: Params::FIELDS,
    reference: |p, x, y| compute(&Params::read(p), x[0], y),
    cpu: |p, x, y| compute(&Params::read(p), x[0], y),
    cost: |_, _, x| {
        let len = x.iter().product::<usize>() as f64;
        Cost { flops: 15.0 * len, reads: 5.0 * len, writes: 6.0 * len }
    },
    ..Kernel::PLAIN
};

/// What a [`fixed_point`] updates besides x.
#[derive(Clone, Debug)]
pub struct SearchState<'a> {
    /// The answer `[B, ..]`: what follows from the last evaluation, unless an earlier x was nearer.
    pub answer: &'a Tensor,
    /// Where g was evaluated, where it was nearest, g and g(x) − x of the last evaluation: `[B, 4, ..]`. Nothing of it is
    /// read where the search begins.
    pub memory: &'a Tensor,
    /// [Numbers](FOUND) of each picture `[B, 2]`; zeros begin a search.
    pub found: &'a Tensor,
}

/// Learns that x `[B, ..]` is g of the x that it gave before, of `first` `[B, ..]` where the search begins, and puts where g is
/// to be evaluated next in its place. A picture that is `settled` stays at its answer.
#[track_caller]
pub fn fixed_point(g: &mut Graph, first: &Tensor, x: &Tensor, state: &SearchState<'_>, settled: f32) {
    let SearchState { answer, memory, found } = state;
    let lens = [first.len(), answer.len(), memory.len(), found.len()];
    let expected = [x.len(), x.len(), MEMORY * x.len(), FOUND * x.dim(0)];
    assert_eq!(lens, expected, "fixed_point: of {:?}", x.shape);
    let p = Params { item: (x.len() / x.dim(0)) as u32, settled };
    g.push_into(&KERNEL, "fixed_point", p.bytes(), &[first], &[x, answer, memory, found]);
}

fn compute<T: Real + Send + Sync>(p: &Params, first: &[T], outputs: &mut [&mut [T]]) {
    let [x, answer, memory, found] = outputs else { return };
    let item = p.item as usize;
    first
        .par_chunks_exact(item)
        .zip(x.par_chunks_exact_mut(item))
        .zip(answer.par_chunks_exact_mut(item))
        .zip(memory.par_chunks_exact_mut(MEMORY * item))
        .zip(found.par_chunks_exact_mut(FOUND))
        .for_each(|((((first, x), answer), memory), found)| {
            learn(first, x, answer, memory, found, f64::from(p.settled));
        });
}

/// One picture's step.
fn learn<T: Real>(
    first: &[T],
    x: &mut [T],
    answer: &mut [T],
    memory: &mut [T],
    found: &mut [T],
    settled: f64,
) {
    let item = x.len();
    let (at, rest) = memory.split_at_mut(item);
    let (nearest, rest) = rest.split_at_mut(item);
    let (g_before, f_before) = rest.split_at_mut(item);
    let (least, evaluations): (f64, f64) = (found[0].into(), found[1].into());
    let begins = evaluations == 0.0;
    if begins {
        at.copy_from_slice(first);
    } else if least <= settled {
        x.copy_from_slice(answer);
        return;
    }
    let values = |of: &[T], i: usize| -> f64 { of[i].into() };
    let (mut lengths, mut products, mut changes) = (0.0, 0.0, 0.0);
    for i in 0..item {
        let f = values(x, i) - values(at, i);
        lengths += f * f;
        if !begins {
            let change = f - values(f_before, i);
            products += f * change;
            changes += change * change;
        }
    }
    let error = (lengths / item as f64).sqrt();
    let improves = error.is_finite() && (begins || !least.is_finite() || error < least);
    // γ for which the same of g(x) − x is shortest.
    let gamma = products / changes;
    let mixed = |g: f64, before: f64| g - gamma * (g - before);
    let accelerates =
        changes > 0.0 && (0..item).all(|i| (mixed(values(x, i), values(g_before, i)) as f32).is_finite());
    for i in 0..item {
        let (g, evaluated) = (x[i], at[i]);
        let next = if accelerates { T::of(mixed(g.into(), g_before[i].into())) } else { g };
        if improves || begins {
            nearest[i] = evaluated;
        }
        answer[i] = if improves { next } else { nearest[i] };
        (g_before[i], f_before[i]) = (g, g - evaluated);
        (at[i], x[i]) = (next, next);
    }
    if improves || begins {
        found[0] = T::of(error);
    }
    found[1] = T::of(evaluations + 1.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLED: f32 = 1e-5;

    /// The search of one picture, as a device holds it.
    struct FixedPoint {
        x: Vec<f32>,
        first: Vec<f32>,
        answer: Vec<f32>,
        memory: Vec<f32>,
        found: Vec<f32>,
    }

    impl FixedPoint {
        fn new(first: &[f32]) -> Self {
            let len = first.len();
            FixedPoint {
                x: first.to_vec(),
                first: first.to_vec(),
                answer: vec![0.0; len],
                // Nothing of what an earlier search left is read.
                memory: vec![f32::NAN; MEMORY * len],
                found: vec![0.0; FOUND],
            }
        }

        fn x(&self) -> &[f32] {
            &self.x
        }

        fn answer(&self) -> &[f32] {
            &self.answer
        }

        fn settled(&self) -> bool {
            self.found[1] > 0.0 && self.found[0] <= SETTLED
        }

        fn learn(&mut self, g: &[f32]) {
            let p = Params { item: g.len() as u32, settled: SETTLED };
            self.x.copy_from_slice(g);
            let outputs: &mut [&mut [f32]] =
                &mut [&mut self.x, &mut self.answer, &mut self.memory, &mut self.found];
            compute(&p, &self.first, outputs);
        }
    }

    /// x = m x + b, searched for by so many evaluations.
    fn search(m: &[f32], b: &[f32], evaluations: usize) -> Vec<f32> {
        let mut search = FixedPoint::new(&vec![0.0; m.len()]);
        for _ in 0..evaluations {
            let g: Vec<f32> = search.x().iter().zip(m.iter().zip(b)).map(|(x, (m, b))| m * x + b).collect();
            search.learn(&g);
        }
        search.answer().to_vec()
    }

    #[test]
    fn fixed_points_are_found_where_evaluating_again_and_again_would_not() {
        // Along one direction two evaluations and the line through them do; where g pushes off, the second was worse than
        // the first, and a third must show that what follows is better.
        for (m, evaluations) in [(0.95, 2), (-0.9, 2), (1.3, 3), (-2.0, 3)] {
            let (found, expected) = (search(&[m], &[1.5], evaluations)[0], 1.5 / (1.0 - m));
            assert!((found - expected).abs() < 1e-4 * expected.abs(), "{m}: {found} for {expected}");
        }
        // Of one slow direction among quick ones little is left after five, where 0.95⁵ of it would be.
        let (m, b) = ([0.95, 0.1, -0.1, 0.05], [1.0, 2.0, -0.5, 0.3]);
        let off = |found: &[f32]| {
            let expected = m.iter().zip(b).map(|(m, b)| b / (1.0 - m));
            found.iter().zip(expected).map(|(x, e)| (x - e).abs()).fold(0.0, f32::max)
        };
        let accelerated = off(&search(&m, &b, 5));
        let plain = (1.0 / 0.05) * 0.95f32.powi(5);
        assert!(accelerated < 0.01 * plain, "{accelerated}, without acceleration {plain}");
    }

    #[test]
    fn a_search_keeps_what_was_nearest() {
        // The first guess alone.
        let mut search = FixedPoint::new(&[4.0]);
        search.learn(&[2.5]);
        assert_eq!(search.answer(), [2.5]);
        // What follows turns out worse: back to the nearest.
        search.learn(&[90.0]);
        assert_eq!(search.answer(), [4.0]);
        // Values that are no numbers are never an answer.
        search.learn(&[f32::NAN]);
        assert_eq!(search.answer(), [4.0]);
        let mut settles = FixedPoint::new(&[1.0]);
        settles.learn(&[1.0]);
        assert!(settles.settled() && settles.answer() == [1.0]);
    }

    /// So that a picture does not depend on how long others of its batch are searched for.
    #[test]
    fn what_is_settled_stays() {
        let mut search = FixedPoint::new(&[1.0, 2.0]);
        search.learn(&[1.0, 2.0 + 1e-6]);
        assert!(search.settled());
        for _ in 0..3 {
            search.learn(&[7.0, f32::NAN]);
            assert_eq!((search.answer(), search.x()), (&[1.0, 2.0 + 1e-6][..], &[1.0, 2.0 + 1e-6][..]));
        }
    }

    /// The first evaluation being no number is told, and an answer is a number all the same.
    #[test]
    fn what_is_no_number_from_the_first_is_told() {
        let mut search = FixedPoint::new(&[1.0]);
        search.learn(&[f32::NAN]);
        assert!(!search.settled() && search.found[0].is_nan());
        assert_eq!(search.answer(), [1.0]);
    }
}
