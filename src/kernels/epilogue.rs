//! What follows a sum before it is stored: activation, operand, scale (`shaders/shared/epilogue.wgsl`).

use super::simd::{exp, wide};
use bytemuck::{Pod, Zeroable};
use std::ops::Range;

/// Activation functions, numbered as in `shaders/shared/activation.wgsl`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Activation {
    /// x
    #[default]
    Identity = 0,
    /// x · sigmoid(x)
    Silu = 1,
    /// x · Φ(x), the exact form with erf
    Gelu = 2,
    /// GELU's tanh approximation (`gelu_new` of T5)
    GeluTanh = 3,
    /// x · sigmoid(1.702 x) (CLIP)
    QuickGelu = 4,
    /// max(x, 0)
    Relu = 5,
}

impl Activation {
    /// By the names that `config.json` files use.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "silu" | "swish" => Activation::Silu,
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            "quick_gelu" => Activation::QuickGelu,
            "relu" => Activation::Relu,
            _ => return None,
        })
    }

    pub(crate) fn from_number(number: u32) -> Self {
        use Activation::*;
        [Identity, Silu, Gelu, GeluTanh, QuickGelu, Relu].get(number as usize).copied().unwrap_or(Identity)
    }

    /// The definition, in f64.
    pub fn reference(self, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match self {
            Activation::Identity => x,
            Activation::Silu => x * sigmoid(x),
            Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            Activation::GeluTanh => {
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + u.tanh())
            }
            Activation::QuickGelu => x * sigmoid(1.702 * x),
            Activation::Relu => x.max(0.0),
        }
    }

    /// The derivative at x, in f64; at its corner ReLU's is 0.
    pub fn derivative_reference(self, x: f64) -> f64 {
        use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI, PI};
        // Of x · sigmoid(x).
        let silu = |x: f64| {
            let s = 1.0 / (1.0 + (-x).exp());
            s * (1.0 + x * (1.0 - s))
        };
        match self {
            Activation::Identity => 1.0,
            Activation::Silu => silu(x),
            Activation::Gelu => {
                0.5 * (1.0 + erf(x * FRAC_1_SQRT_2)) + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt()
            }
            Activation::GeluTanh => {
                let t = (FRAC_2_PI.sqrt() * (x + 0.044715 * x.powi(3))).tanh();
                let slope = FRAC_2_PI.sqrt() * (1.0 + 3.0 * 0.044715 * x * x);
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope
            }
            Activation::QuickGelu => silu(1.702 * x),
            Activation::Relu => f64::from(x > 0.0),
        }
    }

    /// In f32, for the CPU device.
    #[inline(always)]
    pub fn apply(self, x: f32) -> f32 {
        let sigmoid = |x: f32| 1.0 / (1.0 + exp(-x));
        match self {
            Activation::Identity => x,
            Activation::Silu => x * sigmoid(x),
            Activation::Gelu => 0.5 * x * (1.0 + erf_f32(x * std::f32::consts::FRAC_1_SQRT_2)),
            Activation::GeluTanh => x * sigmoid(1.595_769 * (x + 0.044_715 * x * x * x)),
            Activation::QuickGelu => x * sigmoid(1.702 * x),
            Activation::Relu => x.max(0.0),
        }
    }

    /// The derivative at x in f32, for the CPU device, as in `shaders/shared/activation_derivative.wgsl`.
    #[inline(always)]
    pub fn derivative(self, x: f32) -> f32 {
        // Of x · sigmoid(u) where x · u'(x) is `slope`.
        let gated = |u: f32, slope: f32| {
            let e = exp(-u.clamp(-80.0, 80.0));
            let s = 1.0 / (1.0 + e);
            s * (1.0 + slope * (e * s))
        };
        match self {
            Activation::Identity => 1.0,
            Activation::Silu => {
                let near = x.clamp(-80.0, 80.0);
                gated(near, near)
            }
            Activation::Gelu => {
                let near = x.clamp(-14.0, 14.0);
                let up_to = 0.5 * (1.0 + erf_f32(near * std::f32::consts::FRAC_1_SQRT_2));
                up_to + 0.398_942_3 * near * exp(-0.5 * near * near)
            }
            Activation::GeluTanh => {
                let near = x.clamp(-10.0, 10.0);
                let (straight, squared) = (1.595_769 * near, near * near);
                gated(straight * (1.0 + 0.044_715 * squared), straight * (1.0 + 0.134_145 * squared))
            }
            Activation::QuickGelu => {
                let near = (1.702 * x).clamp(-80.0, 80.0);
                gated(near, near)
            }
            Activation::Relu => f32::from(u8::from(x > 0.0)),
        }
    }

    /// Each x becomes dy · [`derivative`](Self::derivative) of x.
    #[inline(always)]
    pub(crate) fn differentiate_all(self, values: &mut [f32], dy: &[f32]) {
        #[inline(always)]
        fn each(values: &mut [f32], dy: &[f32], act: Activation) {
            for (v, dy) in values.iter_mut().zip(dy) {
                *v = act.derivative(*v) * dy;
            }
        }
        // A loop of its own for each function.
        match self {
            Activation::Identity => values.copy_from_slice(dy),
            Activation::Silu => each(values, dy, Activation::Silu),
            Activation::Gelu => each(values, dy, Activation::Gelu),
            Activation::GeluTanh => each(values, dy, Activation::GeluTanh),
            Activation::QuickGelu => each(values, dy, Activation::QuickGelu),
            Activation::Relu => each(values, dy, Activation::Relu),
        }
    }

    /// [`apply`](Self::apply) in place.
    #[inline(always)]
    pub(crate) fn apply_all(self, values: &mut [f32]) {
        #[inline(always)]
        fn each(values: &mut [f32], act: Activation) {
            for v in values {
                *v = act.apply(*v);
            }
        }
        // A loop of its own for each function.
        match self {
            Activation::Identity => {}
            Activation::Silu => each(values, Activation::Silu),
            Activation::Gelu => each(values, Activation::Gelu),
            Activation::GeluTanh => each(values, Activation::GeluTanh),
            Activation::QuickGelu => each(values, Activation::QuickGelu),
            Activation::Relu => each(values, Activation::Relu),
        }
    }
}

/// erf to f64 precision: the series of e^-x² near zero, a continued fraction of erfc beyond.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    let magnitude = if a > 6.0 {
        1.0
    } else if a < 2.5 {
        // erf x = 2/√π e^{-x²} Σ 2ⁿ x^{2n+1} / (2n+1)!!
        let (mut term, mut sum, mut n) = (a, a, 1.0);
        while term > sum * 1e-17 {
            term *= 2.0 * a * a / (2.0 * n + 1.0);
            sum += term;
            n += 1.0;
        }
        std::f64::consts::FRAC_2_SQRT_PI * (-a * a).exp() * sum
    } else {
        // erfc x = e^{-x²}/√π · 1/(x + (1/2)/(x + 1/(x + (3/2)/(x + …))))
        let fraction = (1..=60).rev().fold(0.0, |f, k| 0.5 * k as f64 / (a + f));
        1.0 - (-a * a).exp() / (std::f64::consts::PI.sqrt() * (a + fraction))
    };
    magnitude.copysign(x)
}

/// Beyond this |x|, erf x rounds to ±1 in f32.
const ERF_IS_ONE: f32 = 3.92;

/// The rational function of `shaders/shared/activation.wgsl`.
#[inline(always)]
fn erf_f32(x: f32) -> f32 {
    let s = x * x;
    let p = s * -2.726_142_3e-10 + 2.770_681_4e-8;
    let p = p * s - 2.101_024e-6;
    let p = p * s - 5.692_506_4e-5;
    let p = p * s - 7.349_906e-4;
    let p = p * s - 2.954_6e-3;
    let p = p * s - 1.609_603_3e-2;
    let q = s * -1.456_607_2e-5 - 2.133_740_6e-4;
    let q = q * s - 1.682_827e-3;
    let q = q * s - 7.373_329e-3;
    let q = q * s - 1.426_473_9e-2;
    if x.abs() >= ERF_IS_ONE { 1.0_f32.copysign(x) } else { x * p / q }
}

/// How the operand joins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum OperandOp {
    /// No operand.
    #[default]
    None = 0,
    /// y + operand
    Add = 1,
    /// y · operand
    Mul = 2,
}

/// The last 16 bytes of the `Params` of every kernel that has an epilogue.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct Epilogue {
    /// [`Activation`] as a number.
    pub act: u32,
    /// [`OperandOp`] as a number.
    pub operand_op: u32,
    /// Rows of the output that share a row of the operand; at least 1.
    pub operand_rows: u32,
    /// Factor at the end.
    pub scale: f32,
}

impl Default for Epilogue {
    fn default() -> Self {
        Epilogue { act: 0, operand_op: 0, operand_rows: 1, scale: 1.0 }
    }
}

impl Epilogue {
    /// Reads it from a kernel's parameters.
    pub(crate) fn read(params: &[u8]) -> Self {
        bytemuck::pod_read_unaligned(&params[params.len() - size_of::<Self>()..])
    }

    /// Writes it back.
    pub(crate) fn write(&self, params: &mut [u8]) {
        let start = params.len() - size_of::<Self>();
        params[start..].copy_from_slice(bytemuck::bytes_of(self));
    }

    /// y for a sum at (`row`, `col`), in f64.
    pub(crate) fn reference(
        &self,
        sum: f64,
        operand: &[impl Into<f64> + Copy],
        row: usize,
        col: usize,
        cols: usize,
    ) -> f64 {
        let y = Activation::from_number(self.act).reference(sum);
        let other = || operand[row / self.operand_rows as usize * cols + col].into();
        let y = match self.operand_op {
            1 => y + other(),
            2 => y * other(),
            _ => y,
        };
        y * f64::from(self.scale)
    }

    /// Applies it in place to `rows` of `cols` sums, the first of which is row `first` of the output.
    pub(crate) fn apply(
        &self,
        y: &mut [f32],
        first: usize,
        cols: usize,
        bias: Option<&[f32]>,
        operand: &[f32],
    ) {
        // Some rows at a time, all of it while they are in the first cache.
        let rows = (2048 / cols).max(1);
        for (i, y) in y.chunks_mut(rows * cols).enumerate() {
            wide(
                #[inline(always)]
                || self.apply_columns(y, first + i * rows, 0..cols, cols, bias, operand),
            );
        }
    }

    /// The same of some of the `cols` columns: y `[rows, columns]`, and their `bias`. Columns beyond the last hold anything
    /// afterwards. To be called where vectors are wide.
    #[inline(always)]
    pub(crate) fn apply_columns(
        &self,
        y: &mut [f32],
        first: usize,
        columns: Range<usize>,
        cols: usize,
        bias: Option<&[f32]>,
        operand: &[f32],
    ) {
        let width = columns.len();
        if let Some(bias) = bias {
            for row in y.chunks_exact_mut(width) {
                add(row, bias);
            }
        }
        Activation::from_number(self.act).apply_all(y);
        // Where each row has an operand of its own, all of them as one.
        let shared = self.operand_rows as usize;
        let length = if shared == 1 && width == cols { y.len() } else { width };
        if self.operand_op != OperandOp::None as u32 {
            for (r, y) in y.chunks_exact_mut(length).enumerate() {
                let operand = &operand[(first + r) / shared * cols + columns.start..];
                if self.operand_op == OperandOp::Add as u32 { add(y, operand) } else { multiply(y, operand) }
            }
        }
        if self.scale != 1.0 {
            for y in y {
                *y *= self.scale;
            }
        }
    }
}

/// y + x, as far as y goes.
#[inline(always)]
fn add(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

/// y · x, as far as y goes.
#[inline(always)]
fn multiply(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y *= x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_at_known_points() {
        // Abramowitz & Stegun, table 7.1
        for (x, y) in
            [(0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0), (3.0, 0.999_977_909_5)]
        {
            assert!((erf(x) - y).abs() < 1e-10, "erf({x}) = {}", erf(x));
            assert!((f64::from(erf_f32(x as f32)) - y).abs() < 2e-7);
            assert_eq!(erf(-x), -erf(x));
        }
    }

    #[test]
    fn derivatives_are_those_of_the_activations() {
        use Activation::*;
        for act in [Identity, Silu, Gelu, GeluTanh, QuickGelu, Relu] {
            // Not at ReLU's corner.
            for x in (-200..200).map(|i| f64::from(i) * 0.1 + 0.05) {
                let found = act.derivative_reference(x);
                let difference = (act.reference(x + 1e-5) - act.reference(x - 1e-5)) / 2e-5;
                assert!((found - difference).abs() < 1e-8, "{act:?}'({x}) = {found}, {difference}");
                let fast = f64::from(act.derivative(x as f32));
                let exact = act.derivative_reference(f64::from(x as f32));
                assert!((fast - exact).abs() <= 1e-6, "{act:?}'({x}) = {fast}, {exact}");
            }
            for x in [-1e30, -200.0, 0.0, 200.0, 1e30] {
                let (fast, exact) =
                    (act.derivative(x), act.derivative_reference(f64::from(x.clamp(-1e3, 1e3))));
                assert!((f64::from(fast) - exact).abs() <= 1e-6, "{act:?}'({x}) = {fast}, {exact}");
            }
        }
    }

    #[test]
    fn activations_agree_in_f32() {
        for i in -1000..1000 {
            let x = i as f32 * 0.05;
            for act in [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu] {
                let (a, b) = (f64::from(act.apply(x)), act.reference(f64::from(x)));
                assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{act:?}({x}) = {a}, {b}");
            }
        }
    }
}
