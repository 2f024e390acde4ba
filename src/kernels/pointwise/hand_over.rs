//! A stage's pictures as the next stage's network takes them.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Cost, INDEX, Kernel, Shader, element_grid};
use rayon::prelude::*;

params! {
    /// Elements.
    len: u32,
    /// [`HandOver`] as a number.
    kind: u32,
}

/// What happens to pictures' values between two stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HandOver {
    /// Nothing.
    #[default]
    AsIs,
    /// They are clamped to [-1, 1].
    Clamped,
    /// They become the nearest of those that bytes stand for, halves to even, and are not clamped (glide-text2im's notebooks).
    Nearest,
    /// They go through bytes, rounded down, as files of guided-diffusion's samples hold them.
    Bytes,
}

impl HandOver {
    /// What becomes of a value.
    pub fn of(self, value: f32) -> f32 {
        let level = (value + 1.0) * 127.5;
        match self {
            HandOver::AsIs => value,
            HandOver::Clamped => value.clamp(-1.0, 1.0),
            HandOver::Nearest => level.round_ties_even() / 127.5 - 1.0,
            HandOver::Bytes => level.clamp(0.0, 255.0).floor() / 127.5 - 1.0,
        }
    }

    fn read(kind: u32) -> Self {
        [HandOver::AsIs, HandOver::Clamped, HandOver::Nearest, HandOver::Bytes][kind as usize % 4]
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "hand_over",
    shaders: &[Shader::plain("hand_over", wgsl!("pointwise/hand_over"), &[INDEX], element_grid)],
    fields: Params::FIELDS,
    // The levels of f32 values are part of it.
    reference: |p, x, y| {
        let kind = HandOver::read(Params::read(p).kind);
        y[0].iter_mut().zip(x[0]).for_each(|(y, x)| *y = f64::from(kind.of(*x as f32)));
    },
    cpu: |p, x, y| {
        let kind = HandOver::read(Params::read(p).kind);
        y[0].par_iter_mut().zip(x[0]).with_min_len(4096).for_each(|(y, x)| *y = kind.of(*x));
    },
    cost: |_, inputs, y| Cost::streaming(4.0 * y.iter().product::<usize>() as f64, inputs, y),
    ..Kernel::PLAIN
};

/// x, in f32, as the next network takes it, of x's shape.
pub fn hand_over(g: &mut Graph, x: &Tensor, how: HandOver) -> Tensor {
    let p = Params { len: x.len() as u32, kind: how as u32 };
    g.push(&KERNEL, "hand over", p.bytes(), &[x], &x.shape, Storage::Elem)
}
