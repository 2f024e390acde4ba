//! Tensors widened to f32 in the kernels' layout, in pieces of bounded size.
//!
//! Both repacks are one transposition. A convolution's `[O, I, KH, KW]` is `O` rows of `I·K` columns
//! (`K = KH·KW` taps, the fastest), and its `[KH, KW, I, O]` is those columns as rows, ordered by tap first;
//! a linear layer is the case of one tap. A block takes a range of inputs with all their taps, so that the
//! file is read once, in order within each row; its taps lie apart in the result and are handed on as one
//! piece each. Of filters for the backward pass, `[KH, KW, O, I]`, a block is a range of rows, and taps come last to
//! first.

use std::borrow::Cow;

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use safetensors::Dtype;

use super::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::graph::{Pass, Repack, WeightPart};
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
    /// The result is `[taps, inputs, outputs]`, or `[taps, outputs, inputs]` with the taps reversed.
    pass: Pass,
}

/// How a tensor is cut into blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    /// Runs of the result that are runs of the file.
    Straight,
    /// `rows` × `columns` of the result at a time, with all taps.
    Panels { rows: usize, columns: usize },
    /// Runs of the result, gathered element by element, slowly: large odd shapes, of no published model,
    /// that panels cannot cut at multiples of 4.
    Gather,
}

/// A block of panels: its first row and column in the result's matrices, and how many of each.
struct Panel {
    row: usize,
    column: usize,
    rows: usize,
    columns: usize,
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

    /// Rows and columns of a tap's matrix in the result.
    fn matrix(&self) -> (usize, usize) {
        match self.pass {
            Pass::Forward => (self.inputs, self.outputs),
            Pass::Backward => (self.outputs, self.inputs),
        }
    }

    /// The blocks of the transposition. Every piece begins at a multiple of 4.
    fn cut(&self) -> Cut {
        let (taps, (rows, columns)) = (self.taps, self.matrix());
        let straight = match self.pass {
            Pass::Forward => [rows, columns, taps].iter().filter(|&&n| n > 1).count() <= 1,
            Pass::Backward => taps <= 1,
        };
        if straight {
            return Cut::Straight;
        }
        if self.len() <= PIECE {
            return Cut::Panels { rows, columns };
        }
        let room = (PIECE / taps).min(rows.saturating_mul(columns));
        if columns.is_multiple_of(4) && room >= 64 {
            let across = columns.min(room / 4 * 4);
            let down = if across == columns { room / columns } else { 1 };
            return Cut::Panels { rows: down.min(rows), columns: across };
        }
        if (taps == 1 || rows.is_multiple_of(4)) && room / columns >= 4 {
            return Cut::Panels { rows: (room / columns / 4 * 4).min(rows), columns };
        }
        Cut::Gather
    }

    /// How many blocks there are.
    fn count(&self, cut: Cut) -> usize {
        match cut {
            Cut::Straight | Cut::Gather => self.len().div_ceil(PIECE),
            Cut::Panels { rows, columns } => {
                let (down, across) = self.matrix();
                down.div_ceil(rows) * across.div_ceil(columns)
            }
        }
    }

    /// First row and column of a block of panels, and how many of each.
    fn panel(&self, n: usize, rows: usize, columns: usize) -> Panel {
        let (down, across) = self.matrix();
        let blocks = across.div_ceil(columns);
        let (row, column) = (n / blocks * rows, n % blocks * columns);
        Panel { row, column, rows: rows.min(down - row), columns: columns.min(across - column) }
    }

    /// Computes block `n` into `out`.
    fn fill(&self, cut: Cut, n: usize, out: &mut Vec<f32>) {
        if let Cut::Panels { rows, columns } = cut {
            let panel = self.panel(n, rows, columns);
            out.resize(panel.rows * panel.columns * self.taps, 0.0);
            return match self.pass {
                Pass::Forward => self.transpose(&panel, out),
                Pass::Backward => self.reverse(&panel, out),
            };
        }
        let first = n * PIECE;
        out.resize(PIECE.min(self.len() - first), 0.0);
        match cut {
            Cut::Gather => self.gather(first, out),
            _ => self.widen(first, out),
        }
    }

    /// A block of panels of the forward pass: `out` is `[taps, inputs, outputs]` of the block.
    fn transpose(&self, panel: &Panel, out: &mut [f32]) {
        let &Panel { row: i0, column: o0, rows: is, columns: os } = panel;
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

    /// A block of panels of the backward pass: `out` is `[taps, outputs, inputs]` of the block, the last tap first.
    fn reverse(&self, panel: &Panel, out: &mut [f32]) {
        let mut line = vec![0.0; panel.columns * self.taps];
        for o in 0..panel.rows {
            self.widen(((panel.row + o) * self.inputs + panel.column) * self.taps, &mut line);
            for (tap, to) in out.chunks_exact_mut(panel.rows * panel.columns).enumerate() {
                let to = &mut to[o * panel.columns..][..panel.columns];
                let from = line[self.taps - 1 - tap..].iter().step_by(self.taps);
                to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            }
        }
    }

    fn gather(&self, first: usize, out: &mut [f32]) {
        let (rows, columns) = self.matrix();
        for (e, to) in out.iter_mut().enumerate() {
            let (at, column) = ((first + e) / columns, (first + e) % columns);
            let (tap, row) = (at / rows, at % rows);
            let (o, i, tap) = match self.pass {
                Pass::Forward => (column, row, tap),
                Pass::Backward => (row, column, self.taps - 1 - tap),
            };
            self.widen((o * self.inputs + i) * self.taps + tap, std::slice::from_mut(to));
        }
    }

    /// Hands block `n` on.
    fn emit(&self, cut: Cut, n: usize, block: &[f32], sink: &mut Sink<'_>) -> Result<()> {
        let Cut::Panels { rows, columns } = cut else {
            return sink(n * PIECE, block);
        };
        if block.len() == self.len() {
            return sink(0, block);
        }
        let panel = self.panel(n, rows, columns);
        let (down, across) = self.matrix();
        for (tap, piece) in block.chunks_exact(panel.rows * panel.columns).enumerate() {
            sink((tap * down + panel.row) * across + panel.column, piece)?;
        }
        Ok(())
    }
}

type Sink<'a> = dyn FnMut(usize, &[f32]) -> Result<()> + 'a;

impl Checkpoint {
    /// A weight's parts, widened to f32 in the kernels' layout, in pieces: `sink` gets the index of a piece's first
    /// element in the result, and the piece's values.
    ///
    /// Each element comes exactly once. A piece has at most 2^20 elements and begins at a multiple of 4; so
    /// all but the one at the result's end have a multiple of 4 elements. **Pieces come in no particular
    /// order**: the sink must heed the index. At most 8 pieces' worth of values are held at a time.
    /// The parts come as one tensor, stacked along their first dimension. [`Repack::Transpose`] needs tensors of two
    /// dimensions (more, if they are 1), [`Repack::Conv`] of four, and [`Repack::Winograd`], which comes in one
    /// piece, 3×3 filters. Files may mix F32, F16, BF16 and F64 (the last is rounded).
    ///
    /// # Errors
    /// When there is no such tensor, its type or number of dimensions is another, or `sink` fails.
    pub fn stream(
        &self,
        parts: &[WeightPart],
        repack: Repack,
        sink: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        if matches!(repack, Repack::Winograd(_)) {
            // One layer's filters at a time; they are transformed as a whole.
            return sink(0, &self.read_parts(parts, repack)?);
        }
        let view = self.view(parts, repack)?;
        if view.len() == 0 {
            return Ok(());
        }
        for part in parts {
            let entry = self.entry(&part.name)?;
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
        self.read_parts(&[WeightPart::whole(name)], repack)
    }

    /// A whole weight of several parts, widened to f32 in the kernels' layout.
    ///
    /// # Errors
    /// As [`Checkpoint::stream`].
    pub fn read_parts(&self, parts: &[WeightPart], repack: Repack) -> Result<Vec<f32>> {
        if let Repack::Winograd(pass) = repack {
            return Ok(filters(&self.read_parts(parts, Repack::Conv(pass))?));
        }
        let mut values = vec![0.0; self.view(parts, repack)?.len()];
        self.stream(parts, repack, &mut |first, piece| {
            values[first..first + piece.len()].copy_from_slice(piece);
            Ok(())
        })?;
        Ok(values)
    }

    fn view(&self, parts: &[WeightPart], repack: Repack) -> Result<View<'_>> {
        let pass = if let Repack::Conv(pass) = repack { pass } else { Pass::Forward };
        let mut view = View { segments: Vec::new(), outputs: 0, inputs: 0, taps: 0, pass };
        for part in parts {
            let (segment, [outputs, inputs, taps]) = self.segment(part, repack, view.len())?;
            if !view.segments.is_empty() && [inputs, taps] != [view.inputs, view.taps] {
                let what = "has another shape than the tensors it is stacked with: these weights are of another model";
                return Err(Error::tensor(&self.path, &part.name, what));
            }
            view.segments.push(segment);
            view = View { outputs: view.outputs + outputs, inputs, taps, ..view };
        }
        Ok(view)
    }

    /// One tensor, or rows of it, that begins at element `first`, and its outputs, inputs and taps.
    fn segment(&self, part: &WeightPart, repack: Repack, first: usize) -> Result<(Segment<'_>, [usize; 3])> {
        let name = &part.name;
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
            (Repack::Conv(_), &[o, i, kh, kw]) => [o, i, kh.saturating_mul(kw)],
            (_, shape) => {
                let needed = if let Repack::Conv(_) = repack { "[out, in, kh, kw]" } else { "[out, in]" };
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
