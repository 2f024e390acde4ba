//! What a weight is made of: tensors of the checkpoint, or rows of them, stacked along their first dimension, so that a
//! layout that a kernel does not read is put right once, at load.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;

/// A checkpoint's tensor, or some rows of it: a part of a [weight](super::Source::Weight).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WeightPart {
    /// Name in the checkpoint.
    pub name: String,
    /// Which entries of the first dimension; all of them if it does not say.
    pub rows: Option<Range<usize>>,
}

impl WeightPart {
    /// A whole tensor.
    pub fn whole(name: impl Into<String>) -> Self {
        WeightPart { name: name.into(), rows: None }
    }

    /// Rows of a tensor.
    pub fn rows(name: impl Into<String>, rows: Range<usize>) -> Self {
        WeightPart { name: name.into(), rows: Some(rows) }
    }

    /// Several whole tensors.
    pub fn all<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Vec<Self> {
        names.into_iter().map(WeightPart::whole).collect()
    }

    /// What messages call a weight of these parts.
    pub fn list(parts: &[WeightPart]) -> String {
        parts.iter().map(WeightPart::to_string).collect::<Vec<_>>().join(" + ")
    }
}

impl fmt::Display for WeightPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.rows.as_ref().map_or(Ok(()), |rows| write!(f, "[{}:{}]", rows.start, rows.end))
    }
}

impl Ord for WeightPart {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |part: &Self| part.rows.as_ref().map(|rows| (rows.start, rows.end));
        self.name.cmp(&other.name).then_with(|| key(self).cmp(&key(other)))
    }
}

impl PartialOrd for WeightPart {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;

    #[test]
    fn messages_list_the_parts() {
        let parts = [WeightPart::whole("a.weight"), WeightPart::rows("b", 16..32)];
        assert_eq!(WeightPart::list(&parts), "a.weight + b[16:32]");
        assert!(WeightPart::whole("b") < parts[1] && WeightPart::rows("b", 2..40) < parts[1]);
    }

    #[test]
    fn a_graph_counts_rows_and_lists_the_file_s_shape() {
        let mut g = Graph::new();
        let parts = [WeightPart::rows("w", 4..6), WeightPart::rows("w", 0..3)];
        let w = g.scope("layer", |g| g.pointwise(&parts, 6, 5));
        let b = g.vectors(&parts, 6);
        assert_eq!((w.shape, b.shape), (vec![5, 5], vec![5]));
        let listed: Vec<_> = g.weights().collect();
        assert_eq!(listed, [("layer.w", &[6, 5, 1][..]), ("w", &[6])]);
    }
}
