//! Each kernel's pieces by themselves: what a rule says of a piece of an output computes just that piece, for every case of
//! every kernel that has a rule.

use crate::cases::{Case, all};
use crate::harness::{Tolerance, compare, evaluate};
use ancestral::internals::graph::split::{Part, Read};
use ancestral::internals::graph::{Node, TensorId, fuse::fuse};
use ancestral::internals::kernels::ALL;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// In f64, in the order of the whole.
const SAME: Tolerance = Tolerance { nmse: 1e-24, peak: 1e-12 };

/// Pieces of an output: items, the first and the last alone among them, and lines of an item.
fn ranges(shape: &[usize]) -> Vec<Range<usize>> {
    let len: usize = shape.iter().product();
    let item = len / shape[0];
    let mut ranges: Vec<Range<usize>> = vec![0..item, len - item..len, 0..shape[0] / 2 * item];
    if let [items, lines, _, ..] = shape[..] {
        let line = item / lines;
        for (first, end) in
            [(0, 1), (0, lines / 2), (lines / 3, lines), (lines / 4, lines / 2), (lines - 1, lines)]
        {
            for picture in [0, items - 1] {
                ranges.push(picture * item + first * line..picture * item + end * line);
            }
        }
    }
    ranges.retain(|range| !range.is_empty());
    ranges
}

/// What a piece reads of an input.
fn taken(values: &[f64], read: &Read) -> Vec<f64> {
    match read {
        Read::Whole | Read::Weight => values.to_vec(),
        Read::Runs(runs) => runs.iter().flat_map(|run| values[run.clone()].iter().copied()).collect(),
        Read::Columns { rows, cols, columns } => {
            let row = |row: usize| values[row * cols..][columns.clone()].iter().copied();
            rows.clone().flat_map(row).collect()
        }
    }
}

fn computed(node: &Node, part: &Part, values: &HashMap<TensorId, Vec<f64>>, len: usize) -> Vec<f64> {
    let inputs: Vec<Vec<f64>> =
        node.inputs.iter().zip(&part.reads).map(|(id, read)| taken(&values[id], read)).collect();
    let inputs: Vec<&[f64]> = inputs.iter().map(Vec::as_slice).collect();
    let mut y = vec![0.0; len];
    (node.kernel.reference)(&part.params, &inputs, &mut [&mut y]);
    y
}

/// Checks every piece of a case; how many there were.
fn check(case: &Case) -> Result<usize, String> {
    let mut graph = case.graph.clone();
    fuse(&mut graph);
    let node = &graph.nodes[0];
    let Some(split) = node.kernel.split else { return Ok(0) };
    let inputs = case.inputs.iter().map(|(name, values)| {
        let id = graph.find_input(name).expect("an input of the graph");
        (id, values.iter().map(|v| f64::from(*v)).collect())
    });
    let values = evaluate(&graph, inputs.collect());
    let (output, mut pieces) = (node.output(), 0);
    for range in ranges(&graph.info(output).shape) {
        let Some(part) = split(node, range.clone()) else { continue };
        let found = computed(node, &part, &values, range.len());
        compare(&values[&output][range.clone()], &found, SAME)
            .map_err(|e| format!("{}, {range:?}: {e}", case.name))?;
        pieces += 1;
    }
    Ok(pieces)
}

#[test]
fn every_piece_is_that_piece_of_the_whole() {
    let (mut pieces, mut wrong) = (BTreeMap::<&str, usize>::new(), Vec::new());
    for case in all().iter().filter(|case| !case.name.contains("folded_grid")) {
        match check(case) {
            Ok(count) => *pieces.entry(case.kernel).or_default() += count,
            Err(error) => wrong.push(error),
        }
    }
    println!("{pieces:?}");
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    for kernel in ALL.iter().filter(|kernel| kernel.split.is_some()) {
        assert!(
            pieces.get(kernel.name).is_some_and(|count| *count > 2),
            "no case of `{}` is cut",
            kernel.name
        );
    }
}
