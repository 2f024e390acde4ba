//! Tensors widened to f32 in the kernels' layout, in pieces of bounded size.
//!
//! Both repacks are one transposition. A convolution's `[O, I, KH, KW]` is `O` rows of `I·K` columns
//! (`K = KH·KW` taps, the fastest), and its `[KH, KW, I, O]` is those columns as rows, ordered by tap first;
//! a linear layer is the case of one tap. A block takes a range of inputs with all their taps, so that the
//! file is read once, in order within each row; its taps lie apart in the result and are handed on as one
//! piece each.

use std::borrow::Cow;

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use safetensors::Dtype;

use super::Checkpoint;
use crate::error::{Error, Result};
use crate::graph::Repack;
use crate::graph::rows::{Part, parts};
use crate::kernels::winograd_input::filters;

/// Largest piece, in elements.
const PIECE: usize = 1 << 20;
/// Most blocks in work at once: bounds the memory, whatever the number of cores.
const WAVE: usize = 8;
/// The types that are read.
pub(super) const FLOATS: &str = "F32, F16, BF16 or F64";

/// An element type that is widened to f32.
#[derive(Clone, Copy)]
pub(super) enum Float {
    F16,
    BF16,
    F32,
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

    fn size(self) -> usize {
        match self {
            Float::F16 | Float::BF16 => 2,
            Float::F32 => 4,
            Float::F64 => 8,
        }
    }
}

/// Widens as many elements as `out` takes. The bytes need no alignment: in a file of mixed types an f32
/// may follow an odd number of f16.
fn widen(kind: Float, bytes: &[u8], out: &mut [f32]) {
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
                for (half, from) in aligned.iter_mut().zip(from.as_chunks().0) {
                    *half = f16::from_le_bytes(*from);
                }
                aligned.convert_to_f32_slice(to);
            }
        }
    }
}

/// One tensor's bytes, and which element of the whole its first one is.
struct Segment<'a> {
    first: usize,
    bytes: Cow<'a, [u8]>,
    kind: Float,
}

impl Segment<'_> {
    fn len(&self) -> usize {
        self.bytes.len() / self.kind.size()
    }
}

/// A tensor, or several stacked along their first dimension, as `outputs` × `inputs` × `taps`, the taps fastest.
struct View<'a> {
    segments: Vec<Segment<'a>>,
    outputs: usize,
    inputs: usize,
    taps: usize,
}

/// How a tensor is cut into blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    /// Runs of the result that are runs of the file.
    Straight,
    /// `inputs` × `outputs` at a time, with all taps.
    Panels { inputs: usize, outputs: usize },
    /// Runs of the result, gathered element by element, slowly: large odd shapes, of no published model,
    /// that panels cannot cut at multiples of 4.
    Gather,
}

impl View<'_> {
    fn len(&self) -> usize {
        self.segments.iter().map(Segment::len).sum()
    }

    fn widen(&self, mut first: usize, mut out: &mut [f32]) {
        // The segment that holds the first element, and those after it.
        let start = self.segments.partition_point(|s| s.first + s.len() <= first);
        for segment in &self.segments[start..] {
            let (from, size) = (first - segment.first, segment.kind.size());
            let (here, rest) = out.split_at_mut(out.len().min(segment.len() - from));
            widen(segment.kind, &segment.bytes[from * size..(from + here.len()) * size], here);
            first += here.len();
            out = rest;
            if out.is_empty() {
                return;
            }
        }
    }

    /// The blocks of the transposition. Every piece begins at a multiple of 4.
    fn cut(&self) -> Cut {
        let View { outputs, inputs, taps, .. } = *self;
        if [outputs, inputs, taps].iter().filter(|&&n| n > 1).count() <= 1 {
            return Cut::Straight;
        }
        if self.len() <= PIECE {
            return Cut::Panels { inputs, outputs };
        }
        let columns = (PIECE / taps).min(outputs.saturating_mul(inputs));
        if outputs.is_multiple_of(4) && columns >= 64 {
            let o = outputs.min(columns / 4 * 4);
            let i = if o == outputs { columns / outputs } else { 1 };
            return Cut::Panels { inputs: i.min(inputs), outputs: o };
        }
        if (taps == 1 || inputs.is_multiple_of(4)) && columns / outputs >= 4 {
            return Cut::Panels { inputs: (columns / outputs / 4 * 4).min(inputs), outputs };
        }
        Cut::Gather
    }

    /// How many blocks there are.
    fn count(&self, cut: Cut) -> usize {
        match cut {
            Cut::Straight | Cut::Gather => self.len().div_ceil(PIECE),
            Cut::Panels { inputs, outputs } => self.inputs.div_ceil(inputs) * self.outputs.div_ceil(outputs),
        }
    }

    /// First output and input of a block of panels, and how many of each.
    fn panel(&self, n: usize, inputs: usize, outputs: usize) -> (usize, usize, usize, usize) {
        let across = self.outputs.div_ceil(outputs);
        let (o, i) = (n % across * outputs, n / across * inputs);
        (o, i, outputs.min(self.outputs - o), inputs.min(self.inputs - i))
    }

    /// Computes block `n` into `out`.
    fn fill(&self, cut: Cut, n: usize, out: &mut Vec<f32>) {
        if let Cut::Panels { inputs, outputs } = cut {
            let panel = self.panel(n, inputs, outputs);
            out.resize(panel.2 * panel.3 * self.taps, 0.0);
            return self.transpose(panel, out);
        }
        let first = n * PIECE;
        out.resize(PIECE.min(self.len() - first), 0.0);
        match cut {
            Cut::Gather => self.gather(first, out),
            _ => self.widen(first, out),
        }
    }

    /// A block of panels: `out` is `[taps, inputs, outputs]` of the block.
    fn transpose(&self, (o0, i0, os, is): (usize, usize, usize, usize), out: &mut [f32]) {
        // Tiles small enough for the first cache; 16 outputs are one cache line of the result. The rows
        // are 16 longer than used, lest they all fall into the same cache sets.
        const ROWS: usize = 16;
        const COLUMNS: usize = 256;
        let mut tile = [[0f32; COLUMNS + 16]; ROWS];
        let (row, columns) = (self.inputs * self.taps, is * self.taps);
        for o in (0..os).step_by(ROWS) {
            let rows = ROWS.min(os - o);
            for c in (0..columns).step_by(COLUMNS) {
                let width = COLUMNS.min(columns - c);
                for (r, line) in tile[..rows].iter_mut().enumerate() {
                    self.widen((o0 + o + r) * row + i0 * self.taps + c, &mut line[..width]);
                }
                for column in c..c + width {
                    let (j, i, tap) = (column - c, column / self.taps, column % self.taps);
                    let at = (tap * is + i) * os + o;
                    match <&mut [f32; ROWS]>::try_from(&mut out[at..at + rows]) {
                        // The whole line, unrolled.
                        Ok(to) => *to = std::array::from_fn(|r| tile[r][j]),
                        Err(_) => (0..rows).for_each(|r| out[at + r] = tile[r][j]),
                    }
                }
            }
        }
    }

    fn gather(&self, first: usize, out: &mut [f32]) {
        for (e, to) in out.iter_mut().enumerate() {
            let (row, o) = ((first + e) / self.outputs, (first + e) % self.outputs);
            let (tap, i) = (row / self.inputs, row % self.inputs);
            self.widen((o * self.inputs + i) * self.taps + tap, std::slice::from_mut(to));
        }
    }

    /// Hands block `n` on.
    fn emit(&self, cut: Cut, n: usize, block: &[f32], sink: &mut Sink<'_>) -> Result<()> {
        let Cut::Panels { inputs, outputs } = cut else {
            return sink(n * PIECE, block);
        };
        if block.len() == self.len() {
            return sink(0, block);
        }
        let (o, i, os, is) = self.panel(n, inputs, outputs);
        for (tap, piece) in block.chunks_exact(os * is).enumerate() {
            sink((tap * self.inputs + i) * self.outputs + o, piece)?;
        }
        Ok(())
    }
}

type Sink<'a> = dyn FnMut(usize, &[f32]) -> Result<()> + 'a;

impl Checkpoint {
    /// The tensor widened to f32 in the kernels' layout, in pieces: `sink` gets the index of a piece's first
    /// element in the result, and the piece's values.
    ///
    /// Each element comes exactly once. A piece has at most 2^20 elements and begins at a multiple of 4; so
    /// all but the one at the result's end have a multiple of 4 elements. **Pieces come in no particular
    /// order**: the sink must heed the index. At most 8 pieces' worth of values are held at a time.
    /// Of a name that lists several tensors, or rows of them, these come as one, stacked along their first dimension
    /// ([`parts`]). [`Repack::Transpose`] needs a tensor of two dimensions (more, if they are 1), [`Repack::Conv`] of
    /// four, and
    /// [`Repack::Winograd`], which comes in one piece, 3×3 filters. Files may mix F32,
    /// F16, BF16 and F64 (the last is rounded).
    ///
    /// # Errors
    /// When there is no such tensor, its type or number of dimensions is another, or `sink` fails.
    pub fn stream(
        &self,
        name: &str,
        repack: Repack,
        sink: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        if repack == Repack::Winograd {
            // One layer's filters at a time; they are transformed as a whole.
            return sink(0, &self.read(name, repack)?);
        }
        let view = self.view(name, repack)?;
        if view.len() == 0 {
            return Ok(());
        }
        for part in parts(name) {
            let entry = self.entry(part.name)?;
            self.shards[entry.shard].will_need(&entry.bytes);
        }
        let cut = if repack == Repack::None { Cut::Straight } else { view.cut() };
        let count = view.count(cut);
        let wave = rayon::current_num_threads().clamp(1, WAVE).min(count);
        let mut blocks = vec![Vec::new(); wave];
        for start in (0..count).step_by(wave) {
            let blocks = &mut blocks[..wave.min(count - start)];
            if let [block] = blocks {
                view.fill(cut, start, block);
            } else {
                (*blocks).par_iter_mut().enumerate().for_each(|(n, block)| view.fill(cut, start + n, block));
            }
            for (n, block) in blocks.iter().enumerate() {
                view.emit(cut, start + n, block, sink)?;
            }
        }
        Ok(())
    }

    /// The whole tensor widened to f32 in the kernels' layout.
    ///
    /// # Errors
    /// As [`Checkpoint::stream`].
    pub fn read(&self, name: &str, repack: Repack) -> Result<Vec<f32>> {
        if repack == Repack::Winograd {
            return Ok(filters(&self.read(name, Repack::Conv)?));
        }
        let mut values = vec![0.0; self.view(name, repack)?.len()];
        self.stream(name, repack, &mut |first, piece| {
            values[first..first + piece.len()].copy_from_slice(piece);
            Ok(())
        })?;
        Ok(values)
    }

    fn view(&self, names: &str, repack: Repack) -> Result<View<'_>> {
        let mut view = View { segments: Vec::new(), outputs: 0, inputs: 0, taps: 0 };
        for part in parts(names) {
            let (segment, [outputs, inputs, taps]) = self.segment(&part, repack, view.len())?;
            if !view.segments.is_empty() && [inputs, taps] != [view.inputs, view.taps] {
                let what = "has another shape than the tensors it is stacked with: these weights are of another model";
                return Err(Error::tensor(&self.path, part.name, what));
            }
            view.segments.push(segment);
            view = View { outputs: view.outputs + outputs, inputs, taps, ..view };
        }
        Ok(view)
    }

    /// One tensor, or rows of it, that begins at element `first`, and its outputs, inputs and taps.
    fn segment(&self, part: &Part<'_>, repack: Repack, first: usize) -> Result<(Segment<'_>, [usize; 3])> {
        let name = part.name;
        let entry = self.entry(name)?;
        let path = self.shards[entry.shard].path();
        let kind = Float::of(entry.dtype).ok_or_else(|| {
            let what =
                format!("expected {FLOATS}, found {}: use weights that are not quantised", entry.dtype);
            Error::tensor(path, name, what)
        })?;
        let mut bytes = self.bytes(entry);
        let mut sizes = match (repack, entry.shape.as_slice()) {
            // A run of elements, whatever its shape.
            (Repack::None, _) => [bytes.len() / kind.size(), 1, 1],
            (Repack::Transpose, &[o, i, ref ones @ ..]) if ones.iter().all(|&n| n == 1) => [o, i, 1],
            // Taps of an empty tensor may be any number; nothing is computed from them.
            (Repack::Conv, &[o, i, kh, kw]) => [o, i, kh.saturating_mul(kw)],
            (_, shape) => {
                let needed = if repack == Repack::Conv { "[out, in, kh, kw]" } else { "[out, in]" };
                let what =
                    format!("expected a shape {needed}, found {shape:?}: these weights are of another model");
                return Err(Error::tensor(path, name, what));
            }
        };
        if let Some(rows) = &part.rows {
            let all = entry.shape.first().copied().unwrap_or(0);
            let row = bytes.len() / all.max(1);
            let range = rows.start.saturating_mul(row)..rows.end.saturating_mul(row);
            if range.start > range.end || range.end > bytes.len() {
                let what = format!(
                    "expected rows {} to {}, found {all}: these weights are of another model",
                    rows.start, rows.end
                );
                return Err(Error::tensor(path, name, what));
            }
            bytes = match bytes {
                Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[range]),
                Cow::Owned(bytes) => Cow::Owned(bytes[range].to_vec()),
            };
            sizes[0] = if repack == Repack::None { bytes.len() / kind.size() } else { rows.len() };
        }
        Ok((Segment { first, bytes, kind }, sizes))
    }
}
