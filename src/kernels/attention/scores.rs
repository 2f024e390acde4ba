//! What attention and its gradients share: the uniform, tiles, scores and their exponentials.

use crate::kernels::gemm::gemm;
use crate::kernels::simd::wide;
use std::ops::Add;

params! {
    /// Heads.
    heads: u32,
    /// Columns of a head.
    head_dim: u32,
    /// Query rows of a picture.
    queries: u32,
    /// Rows of the first keys.
    keys1: u32,
    /// Rows of the second keys.
    keys2: u32,
    /// Columns of q.
    q_stride: u32,
    /// Columns of k1.
    k1_stride: u32,
    /// First column of k1.
    k1_offset: u32,
    /// Columns of v1.
    v1_stride: u32,
    /// First column of v1.
    v1_offset: u32,
    /// Columns of k2.
    k2_stride: u32,
    /// First column of k2.
    k2_offset: u32,
    /// Columns of v2.
    v2_stride: u32,
    /// First column of v2.
    v2_offset: u32,
    /// First column of q.
    q_offset: u32,
    /// 1 if a bias is bound.
    has_bias: u32,
    /// 1 if a mask is bound.
    has_mask: u32,
    /// 1: a query sees the keys up to its own place.
    causal: u32,
    /// Factor of the products.
    scale: f32,
}

/// A masked score: no infinity, which WGSL lets an implementation assume away.
pub(crate) const LOWEST: f32 = -3e38;

/// Widest head the kernel holds in registers.
pub const MAX_HEAD_DIM: usize = 512;

/// `shaders/shared/attention.wgsl`: the uniform and scores.
pub(crate) const SCORES: &str = wgsl!("shared/attention");
/// `shaders/shared/attention_key.wgsl`: keys one by one.
pub(crate) const KEYS: &str = wgsl!("shared/attention_key");
/// `shaders/software/shared/spread.wgsl`: products of numbers handed round a subgroup.
pub(crate) const SPREAD: &str = wgsl!("software/shared/spread");
/// Sizes of the tiles for every head.
pub(crate) const ROWS16: &str = wgsl!("shared/rows16_others64");
/// Sizes of the tiles for heads of up to 128 columns.
pub(crate) const ROWS32: &str = wgsl!("shared/rows32_others32");
/// Sizes of the tiles for heads of up to 64 columns.
pub(crate) const ROWS64: &str = wgsl!("shared/rows64_others32");

/// The grid of workgroups that compute `queries` of one head and picture each.
pub(crate) fn grid(params: &[u8], output: &[usize], queries: u32) -> [u32; 3] {
    let p = Params::read(params);
    [p.queries.div_ceil(queries), p.heads, output[0] as u32]
}

/// `shaders/shared/attention_products.wgsl`: rows of one side times rows of the other.
pub(crate) const PRODUCTS: &str = wgsl!("shared/attention_products");

/// One source's rows of one picture and head: the slice from its first element on, and the row stride.
pub(crate) fn head_rows<T>(
    x: &[T],
    n: usize,
    rows: usize,
    stride: u32,
    offset: u32,
    head: usize,
    dim: usize,
) -> (&[T], usize) {
    if rows == 0 {
        return (&[], 1);
    }
    (&x[n * rows * stride as usize + offset as usize + head * dim..], stride as usize)
}

/// f64 for the definitions, f32 for the elements of large ones that a shader is checked by.
pub(crate) trait Number: Copy + Default + Add<Output = Self> + Into<f64> {}

impl Number for f32 {}
impl Number for f64 {}

/// Σ a · b
pub(crate) fn dot<T: Number>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(a, b)| -> f64 { (*a).into() * (*b).into() }).sum()
}

impl Params {
    /// What is added to the score of (`query`, `key`), or none where the key is hidden from the query.
    pub(crate) fn added<T: Number>(
        &self,
        [bias, mask]: [&[T]; 2],
        n: usize,
        head: usize,
        query: usize,
        key: usize,
    ) -> Option<T> {
        let (keys1, keys) = (self.keys1 as usize, (self.keys1 + self.keys2) as usize);
        if self.causal != 0 && key > query {
            return None;
        }
        let mut sum = T::default();
        if self.has_bias != 0 {
            sum = sum + bias[(query * keys + key) * self.heads as usize + head];
        }
        if self.has_mask != 0 && key < keys1 {
            sum = sum + mask[n * keys1 + key];
        }
        Some(sum)
    }
}

impl Params {
    /// Scores of a picture's head, of as many queries from `first` on as `scores` holds: of q, first keys, second keys,
    /// bias and mask. A hidden key's is -∞.
    pub(crate) fn scores(
        &self,
        scores: &mut [f32],
        inputs: [&[f32]; 5],
        (n, head): (usize, usize),
        first: usize,
    ) {
        let [q, k1, k2, bias, mask] = inputs;
        let (dim, keys1, keys2) = (self.head_dim as usize, self.keys1 as usize, self.keys2 as usize);
        let (keys, queries) = (keys1 + keys2, self.queries as usize);
        let rows = scores.len() / keys;
        let (q, q_stride) = head_rows(q, n, queries, self.q_stride, self.q_offset, head, dim);
        let (k1, k1s) = head_rows(k1, n, keys1, self.k1_stride, self.k1_offset, head, dim);
        let (k2, k2s) = head_rows(k2, n, keys2, self.k2_stride, self.k2_offset, head, dim);
        let q = &q[first * q_stride..];
        gemm(scores, keys, q, q_stride, (k1, 1, k1s), [rows, dim, keys1], self.scale);
        gemm(&mut scores[keys1..], keys, q, q_stride, (k2, 1, k2s), [rows, dim, keys2], self.scale);
        self.add_to(scores, rows, [bias, mask], (n, head), (first, 0));
    }

    /// Adds bias and mask to the scores of a picture's head: of rows of as many keys from `place.1` on as there are, one for
    /// each query from `place.0` on. A hidden key's becomes -∞.
    pub(crate) fn add_to(
        &self,
        scores: &mut [f32],
        rows: usize,
        added: [&[f32]; 2],
        (n, head): (usize, usize),
        place: (usize, usize),
    ) {
        if self.has_bias == 0 && self.has_mask == 0 && self.causal == 0 {
            return;
        }
        for (r, row) in scores.chunks_exact_mut(scores.len() / rows).enumerate() {
            for (key, s) in row.iter_mut().enumerate() {
                let added = self.added(added, n, head, place.0 + r, place.1 + key);
                *s = added.map_or(f32::NEG_INFINITY, |added| (*s + added).max(LOWEST));
            }
        }
    }
}

/// Of each row, as many as there are `totals` (maximum and sum of exponentials of the scores before, if there were any):
/// the exponentials of the differences from the maximum, that of the scores before included; the maximum and the sum of all.
/// What was summed before, a row of `sums` each, shrinks as the maximum grows.
pub(crate) fn exponentials(scores: &mut [f32], totals: &mut [[f32; 2]], sums: &mut [f32]) {
    wide(
        #[inline(always)]
        || exponentials_of_rows(scores, totals, sums),
    );
}

#[inline(always)]
fn exponentials_of_rows(scores: &mut [f32], totals: &mut [[f32; 2]], sums: &mut [f32]) {
    const LANES: usize = 32;
    let (keys, dim) = (scores.len() / totals.len(), sums.len() / totals.len());
    for (r, [maximum, total]) in totals.iter_mut().enumerate() {
        let (chunks, rest) = scores[r * keys..(r + 1) * keys].as_chunks_mut::<LANES>();
        let mut tops = [*maximum; LANES];
        for chunk in &*chunks {
            for i in 0..LANES {
                tops[i] = if chunk[i] > tops[i] { chunk[i] } else { tops[i] };
            }
        }
        let mut top = *maximum;
        for other in tops {
            top = if other > top { other } else { top };
        }
        for other in &*rest {
            top = if *other > top { *other } else { top };
        }
        let before = exp(*maximum - top);
        if before < 1.0 {
            for sum in &mut sums[r * dim..(r + 1) * dim] {
                *sum *= before;
            }
        }
        let mut of_chunks = [0.0; LANES];
        for chunk in chunks {
            for i in 0..LANES {
                chunk[i] = exp(chunk[i] - top);
                of_chunks[i] += chunk[i];
            }
        }
        let mut sum = 0.0;
        for some in of_chunks {
            sum += some;
        }
        for s in rest {
            *s = exp(*s - top);
            sum += *s;
        }
        *maximum = top;
        *total = *total * before + sum;
    }
}

/// eˣ for x <= 0 to 2 units in the last place, 0 below -87 (Cephes `expf`), in steps that vectors have.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Added and subtracted it rounds to an integer, which meanwhile stands in its lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let bounded = if x < -87.0 { -87.0 } else { x };
    let shifted = bounded * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = bounded - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut y = 1.987_569_1e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        y = y * r + c;
    }
    let y = (y * r * r + r + 1.0) * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < -87.0 { 0.0 } else { y }
}
