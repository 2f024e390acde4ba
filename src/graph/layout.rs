//! How tensors are stored and laid out.

use crate::kernels::Precision;

/// How a tensor is stored; the WGSL aliases of the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Storage {
    /// Activations: f32, or f16 where the program was built so.
    Elem,
    /// Weight matrices: f32 or f16, independent of the activations.
    Weight,
    /// Always f32: biases, norm weights, noise, the sample x_t.
    F32,
}

impl Storage {
    /// Whether a program of this precision stores it in f16.
    pub fn is_half(self, precision: Precision) -> bool {
        match self {
            Storage::Elem => precision.elem_f16,
            Storage::Weight => precision.weight_f16,
            Storage::F32 => false,
        }
    }
}

/// How a checkpoint's tensor is laid out for the kernels, once, at load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Repack {
    /// As it is in the file.
    None,
    /// Linear `[out, in]`, or a convolution of one tap `[out, in, 1]`, to `[in, out]`.
    Transpose,
    /// Convolution `[out, in, kh, kw]` to the filters of a pass.
    Conv(Pass),
    /// 3×3 convolution `[out, in, 3, 3]` to Winograd's 36 planes of the filters of a pass
    /// ([`filters`](crate::kernels::winograd::filters)).
    Winograd(Pass),
    /// Convolution `[out, in, kh, kw]` to the filters of a pass, of two inputs and the outputs that are `from`, with zeros
    /// behind each so that they are `to` ([`filled`](crate::kernels::conv2d_filled::filled)).
    Filled {
        /// Which way.
        pass: Pass,
        /// Channels of the first input, of the second, of the output.
        from: [u32; 3],
        /// The same with zeros.
        to: [u32; 3],
    },
    /// A vector with zeros behind, so that it is whole quads.
    WholeQuads,
}

/// Which way a convolution goes through a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// From input to output: `[kh, kw, in, out]`.
    Forward,
    /// From the output's gradient to the input's: `[kh, kw, out, in]`, flipped along both `kh` and `kw`.
    Backward,
}

impl Pass {
    /// The filter of the pass the other way.
    pub(crate) fn reversed(self) -> Pass {
        match self {
            Pass::Forward => Pass::Backward,
            Pass::Backward => Pass::Forward,
        }
    }
}
