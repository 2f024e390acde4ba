//! What a picture has right.

/// What is right of a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is what it says")]
pub struct Verdict {
    pub background: bool,
    pub number: bool,
    pub shape: bool,
    pub colour: bool,
    pub texture: bool,
    pub place: bool,
}

impl Verdict {
    /// All of it.
    pub fn is_right(&self) -> bool {
        self.background && self.number && self.shape && self.colour && self.texture && self.place
    }
}
