//! Pictures in and out: what a model draws ([`Picture`]), files as they are ([`Photo`]), what is drawn anew ([`Mask`]).

mod bytes;
mod drawn;
mod encoding;
pub(crate) mod geometry;
mod mask;
mod photo;

mod sheet;

pub use bytes::ByteRounding;
pub use drawn::Picture;
pub use encoding::check_output;
pub use geometry::Rectangle;
pub use mask::Mask;
pub use photo::Photo;
