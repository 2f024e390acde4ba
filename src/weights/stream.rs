//! Tensors in a device's element type and the kernels' layout, in pieces of bounded size. Bytes of a file that has that
//! type already are taken as they are; others are converted while they are laid out.
//!
//! Both repacks are one transposition. A convolution's `[O, I, KH, KW]` is `O` rows of `I·K` columns
//! (`K = KH·KW` taps, the fastest), and its `[KH, KW, I, O]` is those columns as rows, ordered by tap first;
//! a linear layer is the case of one tap. A block takes a range of inputs with all their taps, so that the
//! file is read once, in order within each row; its taps lie apart in the result and are handed on as one
//! piece each. Of filters for the backward pass, `[KH, KW, O, I]`, a block is a range of rows, and taps come last to
//! first.

use std::borrow::Cow;

use rayon::prelude::*;

use super::checkpoint::Checkpoint;
use super::element::{Element, FLOATS, Float};
use crate::error::{Error, Result};
use crate::graph::{Pass, Repack, WeightPart};
use crate::kernels::conv2d_filled::filled;
use crate::kernels::winograd::filters;

/// Largest piece, in elements.
const PIECE: usize = 1 << 20;
/// Most blocks in work at once: bounds the memory, whatever the number of cores.
const WAVE: usize = 8;

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

    fn read<E: Element>(&self, mut first: usize, mut out: &mut [E]) {
        // The segment that holds the first element, and those after it.
        let start = self.segments.partition_point(|s| s.first + s.len() <= first);
        for segment in &self.segments[start..] {
            let (from, size) = (first - segment.first, segment.kind.size());
            let (here, rest) = out.split_at_mut(out.len().min(segment.len() - from));
            E::read(segment.kind, &segment.bytes[from * size..(from + here.len()) * size], here);
            first += here.len();
            out = rest;
            if out.is_empty() {
                return;
            }
        }
    }

    /// So many elements of the file where they are the device's as they lie there.
    fn as_they_lie<E: Element>(&self, first: usize, len: usize) -> Option<&[E]> {
        let at = self.segments.partition_point(|s| s.first + s.len() <= first);
        let segment =
            self.segments.get(at).filter(|s| s.kind == E::SAME && cfg!(target_endian = "little"))?;
        let (from, size) = (first - segment.first, segment.kind.size());
        let bytes = segment.bytes.get(from * size..(from + len) * size)?;
        bytemuck::try_cast_slice(bytes).ok()
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

    /// Elements of block `n`.
    fn block(&self, cut: Cut, n: usize) -> usize {
        match cut {
            Cut::Straight | Cut::Gather => PIECE.min(self.len() - n * PIECE),
            Cut::Panels { rows, columns } => {
                let panel = self.panel(n, rows, columns);
                panel.rows * panel.columns * self.taps
            }
        }
    }

    /// Computes block `n`; `out` is as large as it is.
    fn fill<E: Element>(&self, cut: Cut, n: usize, out: &mut [E]) {
        match cut {
            Cut::Straight => self.read(n * PIECE, out),
            Cut::Gather => self.gather(n * PIECE, out),
            Cut::Panels { rows, columns } => {
                let panel = self.panel(n, rows, columns);
                match self.pass {
                    Pass::Backward => self.reverse(&panel, out),
                    // A cache line of the result at a time.
                    Pass::Forward if size_of::<E>() == 2 => self.transpose::<E, 32>(&panel, out),
                    Pass::Forward => self.transpose::<E, 16>(&panel, out),
                }
            }
        }
    }

    /// A block of panels of the forward pass: `out` is `[taps, inputs, outputs]` of the block.
    fn transpose<E: Element, const ROWS: usize>(&self, panel: &Panel, out: &mut [E]) {
        let &Panel { row: i0, column: o0, rows: is, columns: os } = panel;
        // Tiles small enough for the first cache. The rows are 16 longer than used, lest they all fall into the same
        // cache sets.
        const COLUMNS: usize = 256;
        let mut tile = [[E::zeroed(); COLUMNS + 16]; ROWS];
        let (row, columns) = (self.inputs * self.taps, is * self.taps);
        for o in (0..os).step_by(ROWS) {
            let rows = ROWS.min(os - o);
            for c in (0..columns).step_by(COLUMNS) {
                let width = COLUMNS.min(columns - c);
                for (r, line) in tile[..rows].iter_mut().enumerate() {
                    self.read((o0 + o + r) * row + i0 * self.taps + c, &mut line[..width]);
                }
                for column in c..c + width {
                    let (j, i, tap) = (column - c, column / self.taps, column % self.taps);
                    let at = (tap * is + i) * os + o;
                    match <&mut [E; ROWS]>::try_from(&mut out[at..at + rows]) {
                        // The whole line, unrolled.
                        Ok(to) => *to = std::array::from_fn(|r| tile[r][j]),
                        Err(_) => (0..rows).for_each(|r| out[at + r] = tile[r][j]),
                    }
                }
            }
        }
    }

    /// A block of panels of the backward pass: `out` is `[taps, outputs, inputs]` of the block, the last tap first.
    fn reverse<E: Element>(&self, panel: &Panel, out: &mut [E]) {
        let mut line = vec![E::zeroed(); panel.columns * self.taps];
        for o in 0..panel.rows {
            self.read(((panel.row + o) * self.inputs + panel.column) * self.taps, &mut line);
            for (tap, to) in out.chunks_exact_mut(panel.rows * panel.columns).enumerate() {
                let to = &mut to[o * panel.columns..][..panel.columns];
                let from = line[self.taps - 1 - tap..].iter().step_by(self.taps);
                to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            }
        }
    }

    fn gather<E: Element>(&self, first: usize, out: &mut [E]) {
        let (rows, columns) = self.matrix();
        for (e, to) in out.iter_mut().enumerate() {
            let (at, column) = ((first + e) / columns, (first + e) % columns);
            let (tap, row) = (at / rows, at % rows);
            let (o, i, tap) = match self.pass {
                Pass::Forward => (column, row, tap),
                Pass::Backward => (row, column, self.taps - 1 - tap),
            };
            self.read((o * self.inputs + i) * self.taps + tap, std::slice::from_mut(to));
        }
    }

    /// The runs of the result that block `n` is made of, in order: the first element of each, and how many.
    fn runs(&self, cut: Cut, n: usize) -> Vec<(usize, usize)> {
        let Cut::Panels { rows, columns } = cut else { return vec![(n * PIECE, self.block(cut, n))] };
        if self.block(cut, n) == self.len() {
            return vec![(0, self.len())];
        }
        let panel = self.panel(n, rows, columns);
        let (down, across) = self.matrix();
        let first = |tap: usize| (tap * down + panel.row) * across + panel.column;
        (0..self.taps).map(|tap| (first(tap), panel.rows * panel.columns)).collect()
    }
}

/// What takes pieces: a piece's first element in the result, and its elements. Several threads call it at once.
pub type Sink<'a, E> = dyn Fn(usize, &[E]) -> Result<()> + Sync + 'a;

impl Checkpoint {
    /// A weight's parts in the device's element type and the kernels' layout, in pieces: `sink` gets the index of a
    /// piece's first element in the result, and the piece.
    ///
    /// Each element comes exactly once. A piece has at most 2^20 elements and begins at a multiple of 4; so
    /// all but the one at the result's end have a multiple of 4 elements. **Pieces come in no particular
    /// order, from several threads at once**: the sink must heed the index. At most 8 pieces' worth of values are held at
    /// a time. The parts come as one tensor, stacked along their first dimension. [`Repack::Transpose`] needs tensors of
    /// two dimensions (more, if they are 1), [`Repack::Conv`] and [`Repack::Filled`] of four, and [`Repack::Winograd`] 3×3
    /// filters; the last two and [`Repack::WholeQuads`] come in one piece. Files may mix F32, F16, BF16 and F64 (the last is
    /// rounded); what has the type that is asked for is copied, bit for bit. A tensor that [adapters](Checkpoint::adapt)
    /// change is held whole, in f32.
    ///
    /// # Errors
    /// When there is no such tensor, its type or number of dimensions is another, or `sink` fails.
    pub fn stream<E: Element>(&self, parts: &[WeightPart], repack: Repack, sink: &Sink<'_, E>) -> Result<()> {
        if matches!(repack, Repack::Winograd(_) | Repack::Filled { .. } | Repack::WholeQuads) {
            // One layer's filters at a time; they are transformed as a whole.
            return sink(0, &E::store(self.read_parts(parts, repack)?));
        }
        let (view, cut) = self.to_read(parts, repack)?;
        let fill = |n: usize, block: &mut Vec<E>| {
            let len = view.block(cut, n);
            if let (Cut::Straight, Some(block)) = (cut, view.as_they_lie(n * PIECE, len)) {
                return sink(n * PIECE, block);
            }
            block.resize(len, E::zeroed());
            view.fill(cut, n, block);
            let mut rest = &block[..];
            for (first, len) in view.runs(cut, n) {
                let (piece, behind) = rest.split_at(len);
                sink(first, piece)?;
                rest = behind;
            }
            Ok(())
        };
        let count = view.count(cut);
        let wave = rayon::current_num_threads().clamp(1, WAVE).min(count);
        let mut blocks = vec![Vec::new(); wave];
        for start in (0..count).step_by(wave.max(1)) {
            match &mut blocks[..wave.min(count - start)] {
                [block] => fill(start, block)?,
                blocks => {
                    let all = blocks.par_iter_mut().enumerate();
                    all.try_for_each(|(n, block)| fill(start + n, block))?;
                }
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
        let plain = |repack| self.read_parts(parts, repack);
        match repack {
            Repack::Winograd(pass) => return Ok(filters(&plain(Repack::Conv(pass))?)),
            Repack::Filled { pass, from, to } => return Ok(filled(&plain(Repack::Conv(pass))?, from, to)),
            Repack::WholeQuads => {
                let mut values = plain(Repack::None)?;
                values.resize(values.len().next_multiple_of(4), 0.0);
                return Ok(values);
            }
            Repack::None | Repack::Transpose | Repack::Conv(_) => {}
        }
        let (view, cut) = self.to_read(parts, repack)?;
        let mut values = vec![0.0; view.len()];
        // Each block to where it belongs, its pieces cut out of the result beforehand.
        let mut blocks: Vec<Vec<(usize, &mut [f32])>> = (0..view.count(cut)).map(|_| Vec::new()).collect();
        let runs = |n: usize| view.runs(cut, n).into_iter().enumerate().map(move |(k, run)| (run, n, k));
        let mut order: Vec<_> = (0..blocks.len()).flat_map(runs).collect();
        order.sort_unstable();
        let mut rest = &mut values[..];
        for ((_, len), n, k) in order {
            let (piece, behind) = std::mem::take(&mut rest).split_at_mut(len);
            blocks[n].push((k, piece));
            rest = behind;
        }
        blocks.into_par_iter().enumerate().for_each_init(Vec::new, |scratch, (n, mut pieces)| {
            if let [(_, piece)] = &mut pieces[..] {
                return view.fill(cut, n, piece);
            }
            scratch.resize(view.block(cut, n), 0.0);
            view.fill(cut, n, scratch);
            pieces.sort_unstable_by_key(|(k, _)| *k);
            let mut from = &scratch[..];
            for (_, piece) in pieces {
                let (here, behind) = from.split_at(piece.len());
                piece.copy_from_slice(here);
                from = behind;
            }
        });
        Ok(values)
    }

    /// The parts as one tensor and how it is cut; the system is told what will be read.
    fn to_read(&self, parts: &[WeightPart], repack: Repack) -> Result<(View<'_>, Cut)> {
        let view = self.view(parts, repack)?;
        if view.len() > 0 {
            for part in parts {
                let entry = self.entry(&part.name)?;
                self.shards[entry.shard].will_need(&entry.bytes);
            }
        }
        let straight = repack == Repack::None || view.len() == 0;
        let cut = if straight { Cut::Straight } else { view.cut() };
        Ok((view, cut))
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
        let mut kind = Float::of(entry.dtype).ok_or_else(|| {
            let what =
                format!("expected {FLOATS}, found {}: use weights that are not quantised", entry.dtype);
            Error::tensor(path, name, what)
        })?;
        let mut bytes = self.bytes(entry);
        let all = entry.shape.first().copied().unwrap_or(0);
        let merged = self.adapters.get().and_then(|adapters| adapters.merged(name, all, kind, &bytes));
        if let Some(merged) = merged {
            (bytes, kind) = (Cow::Owned(merged), Float::F32);
        }
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
