//! Rows of a checkpoint's tensors: the name of a [weight](super::Source::Weight) may say which of them it takes and in
//! which order, so that a layout that a kernel does not read is put right once, at load.

use super::STACKED;
use std::ops::Range;

/// A checkpoint's tensor, or some rows of it: a part of a weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Name in the checkpoint.
    pub name: &'a str,
    /// Which entries of the first dimension; all of them if it does not say.
    pub rows: Option<Range<usize>>,
}

/// `name[a:b]`: rows a to b, b not among them.
pub fn of(name: &str, rows: &Range<usize>) -> String {
    format!("{name}[{}:{}]", rows.start, rows.end)
}

/// The parts that a weight's name lists.
pub fn parts(names: &str) -> impl Iterator<Item = Part<'_>> {
    names.split(STACKED).map(|part| match range(part) {
        Some((name, rows)) => Part { name, rows: Some(rows) },
        None => Part { name: part, rows: None },
    })
}

fn range(part: &str) -> Option<(&str, Range<usize>)> {
    let (name, rows) = part.strip_suffix(']')?.rsplit_once('[')?;
    let (start, end) = rows.split_once(':')?;
    let rows = start.parse().ok()?..end.parse().ok()?;
    (rows.start <= rows.end).then_some((name, rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;

    #[test]
    fn names_are_taken_apart() {
        let all = format!("a.weight + {} + b[0:2].weight", of("a.weight", &(16..32)));
        let parts: Vec<_> = parts(&all).map(|part| (part.name, part.rows)).collect();
        assert_eq!(parts, [("a.weight", None), ("a.weight", Some(16..32)), ("b[0:2].weight", None)]);
        for whole in ["w[2:1]", "w[1]", "w[:2]", "w[-1:2]", "w[1:2", "]", ""] {
            assert_eq!(super::parts(whole).next(), Some(Part { name: whole, rows: None }));
        }
    }

    #[test]
    fn a_graph_counts_rows_and_lists_the_file_s_shape() {
        let mut g = Graph::new();
        let names = ["w[4:6]", "w[0:3]"];
        let w = g.scope("layer", |g| g.pointwise(&names, 6, 5));
        let b = g.vectors(&names, 6);
        assert_eq!((w.shape, b.shape), (vec![5, 5], vec![5]));
        let listed: Vec<_> = g.weights().collect();
        assert_eq!(listed, [("layer.w", &[6, 5, 1][..]), ("w", &[6])]);
    }
}
