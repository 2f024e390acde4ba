//! What is judged, and how it comes out.

/// Pictures are judged at this size.
pub const SIDE: usize = 256;

/// A picture of three bytes a pixel, `side`² pixels.
#[derive(Clone, Copy, Debug)]
pub struct Pixels<'a> {
    /// Its side.
    pub side: usize,
    /// `side · side · 3` bytes, row by row.
    pub bytes: &'a [u8],
}

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
