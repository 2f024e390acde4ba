//! Element types: those of files, and the two that devices store.

use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::Dtype;

/// The types that are read.
pub(super) const FLOATS: &str = "F32, F16, BF16 or F64";

/// A file's element type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Float {
    /// IEEE's half precision.
    F16,
    /// The upper half of an f32.
    BF16,
    /// Single precision.
    F32,
    /// Double precision, which is rounded to single.
    F64,
}

impl Float {
    pub(super) fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F16 => Some(Float::F16),
            Dtype::BF16 => Some(Float::BF16),
            Dtype::F32 => Some(Float::F32),
            Dtype::F64 => Some(Float::F64),
            _ => None,
        }
    }

    pub(super) fn size(self) -> usize {
        match self {
            Float::F16 | Float::BF16 => 2,
            Float::F32 => 4,
            Float::F64 => 8,
        }
    }
}

/// What a device stores: `f32` or `f16`.
pub trait Element: bytemuck::Pod + Send + Sync {
    /// The file's type whose bytes are taken as they are.
    const SAME: Float;

    /// Reads as many elements as `out` takes. The bytes need no alignment: in a file of mixed types an f32 may follow an
    /// odd number of f16.
    fn read(kind: Float, bytes: &[u8], out: &mut [Self]);

    /// Values as they are stored.
    fn store(values: Vec<f32>) -> Vec<Self>;
}

impl Element for f32 {
    const SAME: Float = Float::F32;

    fn read(kind: Float, bytes: &[u8], out: &mut [f32]) {
        match kind {
            Float::F32 => {
                for (to, from) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *to = f32::from_le_bytes(*from);
                }
            }
            Float::BF16 => {
                for (to, from) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *to = f32::from_bits(u32::from(u16::from_le_bytes(*from)) << 16);
                }
            }
            Float::F64 => {
                for (to, from) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *to = f64::from_le_bytes(*from) as f32;
                }
            }
            Float::F16 => {
                // Through an aligned copy, because `half` converts whole slices with the CPU's instruction.
                let mut aligned = [f16::ZERO; 256];
                for (to, from) in out.chunks_mut(256).zip(bytes.chunks(512)) {
                    let aligned = &mut aligned[..to.len()];
                    f16::read(Float::F16, from, aligned);
                    aligned.convert_to_f32_slice(to);
                }
            }
        }
    }

    fn store(values: Vec<f32>) -> Vec<f32> {
        values
    }
}

impl Element for f16 {
    const SAME: Float = Float::F16;

    fn read(kind: Float, bytes: &[u8], out: &mut [f16]) {
        if kind == Float::F16 {
            for (to, from) in out.iter_mut().zip(bytes.as_chunks().0) {
                *to = f16::from_le_bytes(*from);
            }
            return;
        }
        let mut wide = [0.0; 256];
        for (to, from) in out.chunks_mut(256).zip(bytes.chunks(256 * kind.size())) {
            let wide = &mut wide[..to.len()];
            f32::read(kind, from, wide);
            to.convert_from_f32_slice(wide);
        }
    }

    fn store(values: Vec<f32>) -> Vec<f16> {
        let mut halves = vec![f16::ZERO; values.len()];
        halves.convert_from_f32_slice(&values);
        halves
    }
}
