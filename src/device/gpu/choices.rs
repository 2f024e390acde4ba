//! What is told of choices.

/// How many nodes were chosen by measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    /// Nodes chosen by an earlier measurement.
    pub known: usize,
    /// Sizes measured now.
    pub measured: usize,
}

impl Choices {
    /// What was chosen after `before`.
    pub(crate) fn since(self, before: Choices) -> Choices {
        Choices { known: self.known - before.known, measured: self.measured - before.measured }
    }
}

/// What is measured now, of the program that is being built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measuring<'a> {
    /// Sizes of kernels done so far.
    pub done: usize,
    /// Sizes to measure, as far as is known.
    pub total: usize,
    /// The kernel and its size.
    pub size: &'a str,
}
