//! Filters' gradients on the CPU tap by tap: dW[tap] = xᵀ · dy of the pixels where the tap reads inside the picture, both where
//! they lie.
//!
//! Tasks are some channels of an input and a group of blocks of pixels; of a block all taps, whose pixels come in runs. An
//! element is one chain along each block, then the blocks' sums, then the groups': all by the shape alone.

use super::filter_gradient::{Params, sum_groups};
use crate::kernels::gemm::Panels;
use crate::kernels::gemm::turned::{Run, Turned};
use pulp::Arch;
use std::ops::Range;

/// Output pixels of a block: a panel of their gradients stays in the first cache.
const BLOCK: usize = 256;

/// y `[taps, channels, cols]` by all threads.
pub(super) fn direct(p: &Params, inputs: &[&[f32]], y: &mut [f32]) {
    let (cols, channels, rows) = (p.cols as usize, (p.in_a + p.in_b) as usize, p.rows as usize);
    let dy = &Panels::new(inputs[2], rows, cols, 1);
    let common = greatest_divisor(p.stride, p.up);
    let step = ((p.stride / common) as usize, (p.up / common) as usize);
    sum_groups(p, rows.div_ceil(BLOCK), y, |(input, some), blocks, y| {
        let (stride, offset) = [(p.in_a as usize, 0), (p.in_b as usize, p.in_a as usize)][input];
        let x = &inputs[input][some.start..];
        let mut runs = Vec::new();
        for block in blocks.clone() {
            for tap in 0..(p.kernel_height * p.kernel_width) as usize {
                runs.clear();
                find_runs(p, block * BLOCK..rows.min((block + 1) * BLOCK), tap, step, &mut runs);
                // SAFETY: no other task has these channels of this group.
                let y = unsafe { y.slice((tap * channels + offset + some.start) * cols, some.len() * cols) };
                Arch::new().dispatch(Turned {
                    x,
                    x_stride: stride,
                    w: dy,
                    runs: &runs,
                    step,
                    y,
                    rows: some.len(),
                    stride: cols,
                    goes_on: block > blocks.start,
                });
            }
        }
    });
}

fn greatest_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_divisor(b, a % b) }
}

/// The output pixels of a range at which a tap reads inside the picture, in runs of `step` pixels of the input and the output.
fn find_runs(p: &Params, pixels: Range<usize>, tap: usize, step: (usize, usize), runs: &mut Vec<Run>) {
    let (ky, kx) = (tap / p.kernel_width as usize, tap % p.kernel_width as usize);
    let (out_width, out_height, stride) = (p.out_width as usize, p.out_height as usize, p.stride as usize);
    let (height, width, up) = (p.height as usize, p.width as usize, p.up as usize);
    let left = p.pad_left as usize;
    // The first column that reads at or behind a column of the padded input.
    let reads = |column: usize| column.saturating_sub(kx).div_ceil(stride);
    for line in pixels.start / out_width..pixels.end.div_ceil(out_width) {
        // What lies above the first row is, unsigned, far below the last.
        let y = ((line % out_height * stride + ky) as u32).wrapping_sub(p.pad_top) as usize;
        if y >= height * up {
            continue;
        }
        let first = (line / out_height % p.pictures as usize * height + y / up) * width;
        let start = pixels.start.saturating_sub(line * out_width).max(reads(left));
        let end = (pixels.end - line * out_width).min(out_width).min(reads(left + width * up));
        for start in start..end.min(start + step.1) {
            let x = first + (start * stride + kx - left) / up;
            let (w, len) = (line * out_width + start, (end - start).div_ceil(step.1));
            match runs.last_mut() {
                Some(last) if last.x + last.len * step.0 == x && last.w + last.len * step.1 == w => {
                    last.len += len
                }
                _ => runs.push(Run { x, w, len }),
            }
        }
    }
}
