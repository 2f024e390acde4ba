//! How a piece of a kernel's output is computed: what it reads of each input, and the uniform that says so.

use super::{Part, Read};
use crate::graph::Node;
use crate::kernels::epilogue::{Epilogue, OperandOp};
use crate::kernels::{
    activation_gradient, attention, batch_norm, concat, conv2d, cut, elementwise, embedding, group_apply,
    group_norm, layer_norm, matmul, resample, softmax, sum_axis, transpose,
};
use std::ops::Range;

/// The rows of so many columns that elements are, where they are whole ones.
fn rows(elements: &Range<usize>, cols: usize) -> Option<Range<usize>> {
    let whole = elements.start.is_multiple_of(cols) && elements.end.is_multiple_of(cols);
    whole.then(|| elements.start / cols..elements.end / cols)
}

/// The elements of rows.
fn run(rows: &Range<usize>, cols: usize) -> Range<usize> {
    rows.start * cols..rows.end * cols
}

fn read(rows: &Range<usize>, cols: usize) -> Read {
    Read::Runs(vec![run(rows, cols)])
}

/// Which of so many equal parts rows are in: whole parts, or some rows of a single one.
fn parts_of(rows: &Range<usize>, part: usize) -> Option<Range<usize>> {
    let parts = rows.start / part..rows.end.div_ceil(part);
    let whole = rows.start.is_multiple_of(part) && rows.end.is_multiple_of(part);
    (whole || parts.len() == 1).then_some(parts)
}

/// What rows of the output read of an epilogue's operand.
fn operand(params: &mut [u8], rows: &Range<usize>, cols: usize) -> Option<Read> {
    let mut epilogue = Epilogue::read(params);
    if epilogue.operand_op == OperandOp::None as u32 {
        return Some(Read::Whole);
    }
    let shared = epilogue.operand_rows as usize;
    let of = rows.start / shared..rows.end.div_ceil(shared);
    if of.len() == 1 {
        epilogue.operand_rows = rows.len() as u32;
    } else if !rows.start.is_multiple_of(shared) {
        return None;
    }
    epilogue.write(params);
    Some(read(&of, cols))
}

/// Rows of a product.
pub(crate) fn matmul(node: &Node, elements: Range<usize>) -> Option<Part> {
    let p = matmul::Params::read(&node.params);
    let (inner, cols) = (p.inner as usize, p.cols as usize);
    let rows = rows(&elements, cols).filter(|_| p.batches == 1)?;
    let mut params = matmul::Params { rows: rows.len() as u32, ..p }.bytes();
    let operand = operand(&mut params, &rows, cols)?;
    Some(Part { params, reads: vec![read(&rows, inner), Read::Weight, Read::Whole, operand] })
}

/// Pictures, or rows of one with all that their windows reach.
pub(crate) fn conv2d(node: &Node, elements: Range<usize>) -> Option<Part> {
    let mut p = conv2d::Params::read(&node.params);
    let (cols, out_height, out_width) = (p.cols as usize, p.out_height as usize, p.out_width as usize);
    let lines = rows(&elements, out_width * cols)?;
    let of = parts_of(&lines, out_height)?;
    let pictures = p.pictures as usize;
    let (height, width) = (p.height as usize, p.width as usize);
    let lines_in: Vec<Range<usize>> = if lines.len() == of.len() * out_height {
        p.pictures = of.len() as u32;
        of.map(|n| n % pictures).map(|n| n * height..(n + 1) * height).collect()
    } else {
        let at = |y: usize| (y * p.stride as usize) as i64 - i64::from(p.pad_top as i32);
        let (up, enlarged) = (p.up as usize, (height * p.up as usize) as i64);
        let first = at(lines.start - of.start * out_height);
        let end = at(lines.end - 1 - of.start * out_height) + i64::from(p.kernel_height);
        // The rows that are there; zeros are around the enlarged picture only.
        let there = [first, end].map(|y| y.clamp(0, enlarged) as usize);
        let inside = there[0] / up..there[1].div_ceil(up);
        if inside.is_empty() {
            return None;
        }
        p.pad_top = ((inside.start * up) as i64 - first) as i32 as u32;
        (p.pictures, p.height, p.out_height) = (1, inside.len() as u32, lines.len() as u32);
        let line = of.start % pictures * height;
        let inside = line + inside.start..line + inside.end;
        vec![inside]
    };
    let rows = rows(&elements, cols)?;
    p.rows = rows.len() as u32;
    let mut params = p.bytes();
    let operand = operand(&mut params, &rows, cols)?;
    let input = |channels: u32| match channels {
        0 => Read::Whole,
        channels => Read::Runs(lines_in.iter().map(|lines| run(lines, width * channels as usize)).collect()),
    };
    Some(Part { params, reads: vec![input(p.in_a), input(p.in_b), Read::Weight, Read::Whole, operand] })
}

/// Rows of an element-wise node.
pub(crate) fn elementwise(node: &Node, elements: Range<usize>) -> Option<Part> {
    let p = elementwise::Params::read(&node.params);
    let rows = rows(&elements, p.cols as usize)?;
    let mut params = elementwise::Params { len: elements.len() as u32, ..p }.bytes();
    let operand = operand(&mut params, &rows, p.cols as usize)?;
    Some(Part { params, reads: vec![Read::Runs(vec![elements]), operand] })
}

/// Rows of an activation's gradient.
pub(crate) fn activation_gradient(node: &Node, elements: Range<usize>) -> Option<Part> {
    let p = activation_gradient::Params::read(&node.params);
    let rows = rows(&elements, p.cols as usize)?;
    let mut params = activation_gradient::Params { len: elements.len() as u32, ..p }.bytes();
    let operand = operand(&mut params, &rows, p.cols as usize)?;
    let both = Read::Runs(vec![elements]);
    Some(Part { params, reads: vec![both.clone(), both, operand] })
}

/// Rows of a batch norm.
pub(crate) fn batch_norm(node: &Node, elements: Range<usize>) -> Option<Part> {
    let p = batch_norm::Params::read(&node.params);
    let rows = rows(&elements, p.channels as usize)?;
    let mut params = batch_norm::Params { len: elements.len() as u32, ..p }.bytes();
    let operand = operand(&mut params, &rows, p.channels as usize)?;
    let vectors = [const { Read::Whole }; 4];
    Some(Part {
        params,
        reads: [Read::Runs(vec![elements])].into_iter().chain(vectors).chain([operand]).collect(),
    })
}

/// Rows of a layer norm.
pub(crate) fn layer_norm(node: &Node, elements: Range<usize>) -> Option<Part> {
    let p = layer_norm::Params::read(&node.params);
    let rows = rows(&elements, p.channels as usize)?;
    let params = layer_norm::Params { rows: rows.len() as u32, ..p }.bytes();
    let vectors = node.inputs[1..].iter().map(|_| Read::Whole);
    Some(Part { params, reads: [Read::Runs(vec![elements])].into_iter().chain(vectors).collect() })
}

/// Rows of a softmax.
pub(crate) fn softmax(node: &Node, elements: Range<usize>) -> Option<Part> {
    let p = softmax::Params::read(&node.params);
    let rows = rows(&elements, p.channels as usize)?;
    let params = softmax::Params { rows: rows.len() as u32, ..p }.bytes();
    Some(Part { params, reads: vec![Read::Runs(vec![elements])] })
}

/// Whole pictures of a group norm: one picture is cut by [`super::norm`].
pub(crate) fn group_norm(node: &Node, elements: Range<usize>) -> Option<Part> {
    let p = group_norm::Params::read(&node.params);
    let (pixels, channels) = (p.pixels as usize, (p.in_a + p.in_b) as usize);
    let pictures = rows(&elements, pixels * channels)?;
    let input = |channels: u32| match channels {
        0 => Read::Whole,
        channels => read(&pictures, pixels * channels as usize),
    };
    let emb = if p.has_emb != 0 { read(&pictures, 2 * channels) } else { Read::Whole };
    let reads = vec![input(p.in_a), input(p.in_b), Read::Whole, Read::Whole, emb];
    Some(Part { params: node.params.clone(), reads })
}

/// Pixels of a group norm whose statistics are known.
pub(crate) fn group_apply(node: &Node, elements: Range<usize>) -> Option<Part> {
    let mut p = group_apply::Params::read(&node.params);
    let channels = (p.in_a + p.in_b) as usize;
    let pixels = rows(&elements, channels)?;
    let of = parts_of(&pixels, p.pixels as usize)?;
    p.len = elements.len() as u32;
    p.pixels = (pixels.len() / of.len()) as u32;
    let input = |channels: u32| match channels {
        0 => Read::Whole,
        channels => read(&pixels, channels as usize),
    };
    Some(Part { params: p.bytes(), reads: vec![input(p.in_a), input(p.in_b), read(&of, 3 * channels)] })
}

/// Pictures; rows of one where each is made of whole rows of the input alone.
pub(crate) fn resample(node: &Node, elements: Range<usize>) -> Option<Part> {
    const NEAREST: u32 = 0;
    const AREA: u32 = 3;
    let mut p = resample::Params::read(&node.params);
    let [height, out_height] = [p.height, p.out_height].map(|n| n as usize);
    let lines = rows(&elements, (p.out_width * p.channels) as usize)?;
    let of = parts_of(&lines, out_height)?;
    let line = (p.width * p.channels) as usize;
    let read_lines = if lines.len() == of.len() * out_height {
        of.start * height..of.end * height
    } else {
        let inside = lines.start - of.start * out_height..lines.end - of.start * out_height;
        let inside = match p.mode {
            NEAREST if out_height.is_multiple_of(height) => match rows(&inside, out_height / height) {
                Some(lines) => lines,
                None if inside.len() == 1 => {
                    let line = inside.start / (out_height / height);
                    line..line + 1
                }
                None => return None,
            },
            AREA => run(&inside, height / out_height),
            _ => return None,
        };
        (p.height, p.out_height) = (inside.len() as u32, lines.len() as u32);
        of.start * height + inside.start..of.start * height + inside.end
    };
    p.len = elements.len() as u32;
    Some(Part { params: p.bytes(), reads: vec![read(&read_lines, line)] })
}

/// Items, or queries of one.
pub(crate) fn attention(node: &Node, elements: Range<usize>) -> Option<Part> {
    let mut p = attention::Params::read(&node.params);
    let rows = rows(&elements, (p.heads * p.head_dim) as usize)?;
    let queries = p.queries as usize;
    let of = parts_of(&rows, queries)?;
    let [keys1, keys2] = [p.keys1, p.keys2].map(|n| n as usize);
    let mut bias = Read::Whole;
    if rows.len() != of.len() * queries {
        if p.causal != 0 {
            return None;
        }
        if p.has_bias != 0 {
            let first = rows.start - of.start * queries;
            bias = read(&(first..first + rows.len()), (keys1 + keys2) * p.heads as usize);
        }
        p.queries = rows.len() as u32;
    }
    // Of one picture's queries, the keys' own columns: with queries beside them they may be too large.
    let strip = rows.len() != of.len() * queries;
    let width = (p.heads * p.head_dim) as usize;
    let keys = |keys: usize, stride: &mut u32, offset: &mut u32| match keys {
        0 => Read::Whole,
        keys if strip && *stride as usize > width => {
            let columns = *offset as usize..*offset as usize + width;
            let cols = *stride as usize;
            (*stride, *offset) = (width as u32, 0);
            Read::Columns { rows: of.start * keys..of.end * keys, cols, columns }
        }
        keys => read(&of, keys * *stride as usize),
    };
    let k1 = keys(keys1, &mut p.k1_stride, &mut p.k1_offset);
    let v1 = keys(keys1, &mut p.v1_stride, &mut p.v1_offset);
    let k2 = keys(keys2, &mut p.k2_stride, &mut p.k2_offset);
    let v2 = keys(keys2, &mut p.v2_stride, &mut p.v2_offset);
    let mask = if p.has_mask != 0 { read(&of, keys1) } else { Read::Whole };
    let reads = vec![read(&rows, p.q_stride as usize), k1, v1, k2, v2, bias, mask];
    Some(Part { params: p.bytes(), reads })
}

/// Rows, each of the items that it repeats.
pub(crate) fn concat(node: &Node, elements: Range<usize>) -> Option<Part> {
    let mut p = concat::Params::read(&node.params);
    let rows = rows(&elements, (p.in_a + p.in_b) as usize)?;
    let item = p.rows as usize;
    let input = |channels: u32, batch: u32| {
        if channels == 0 {
            return Read::Whole;
        }
        let of_item = |n: usize| {
            let inside = rows.start.max(n * item)..rows.end.min((n + 1) * item);
            let first = n % batch as usize * item;
            run(&(inside.start - n * item + first..inside.end - n * item + first), channels as usize)
        };
        Read::Runs((rows.start / item..rows.end.div_ceil(item)).map(of_item).collect())
    };
    let reads = vec![input(p.in_a, p.batch_a), input(p.in_b, p.batch_b)];
    (p.len, p.rows, p.batch_a, p.batch_b) = (elements.len() as u32, rows.len() as u32, 1, 1);
    Some(Part { params: p.bytes(), reads })
}

/// Rows, or columns of one.
pub(crate) fn cut(node: &Node, elements: Range<usize>) -> Option<Part> {
    let mut p = cut::Params::read(&node.params);
    let [from, to] = [p.from_cols, p.to_cols].map(|n| n as usize);
    let of = parts_of(&elements, to)?;
    p.len = elements.len() as u32;
    if elements.len() == of.len() * to {
        return Some(Part { params: p.bytes(), reads: vec![read(&of, from)] });
    }
    let shift = i64::from(p.shift as i32);
    let inside = elements.start - of.start * to..elements.end - of.start * to;
    let there = [inside.start, inside.end].map(|col| (col as i64 + shift).clamp(0, from as i64) as usize);
    // Where all is zeros, a column is read that none of them has.
    let (first, end) = if there[0] < there[1] { (there[0], there[1]) } else { (0, 1) };
    (p.from_cols, p.to_cols) = ((end - first) as u32, elements.len() as u32);
    p.shift = match there[0] < there[1] {
        true => (inside.start as i64 + shift - first as i64) as i32 as u32,
        false => p.from_cols,
    };
    let there = of.start * from + first..of.start * from + end;
    Some(Part { params: p.bytes(), reads: vec![Read::Runs(vec![there])] })
}

/// Some ids.
pub(crate) fn embedding(node: &Node, elements: Range<usize>) -> Option<Part> {
    let p = embedding::Params::read(&node.params);
    let ids = rows(&elements, p.channels as usize)?;
    let params = embedding::Params { len: elements.len() as u32, ..p }.bytes();
    Some(Part { params, reads: vec![Read::Runs(vec![ids]), Read::Weight] })
}

/// Some of the sums, or what they are spread to.
pub(crate) fn sum_axis(node: &Node, elements: Range<usize>) -> Option<Part> {
    let p = sum_axis::Params::read(&node.params);
    let (inner, summed) = (p.inner as usize, (p.inner * p.count) as usize);
    let (to, from) = if p.spread != 0 { (summed, inner) } else { (inner, summed) };
    let of = rows(&elements, to)?;
    let params = sum_axis::Params { len: elements.len() as u32, ..p }.bytes();
    Some(Part { params, reads: vec![read(&of, from)] })
}

/// Whole matrices.
pub(crate) fn transpose(node: &Node, elements: Range<usize>) -> Option<Part> {
    let p = transpose::Params::read(&node.params);
    let matrix = (p.rows * p.cols) as usize;
    let of = rows(&elements, matrix)?;
    let params = transpose::Params { batch: of.len() as u32, ..p }.bytes();
    Some(Part { params, reads: vec![read(&of, matrix)] })
}
