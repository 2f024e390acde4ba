//! The drawn world that the bundled models learn: scenes, their captions, their pictures, and what tells whether a picture
//! shows what a caption says.
//!
//! ```text
//! words     shapes, colours, sizes, places      scene     a scene: caption, labels, what is held out
//! draws     a seeded stream of choices          layout    where a scene's objects lie
//! sample    scenes; those that differ in one    draw      pictures from signed distances
//! check     does a picture show its prompt?     folder    pictures with captions, written
//! ```

pub mod check;
mod draw;
mod draws;
mod folder;
mod layout;
mod sample;
mod scene;
mod words;

pub use draw::{Window, draw, render};
pub use draws::Draws;
pub use folder::write_folder;
pub use layout::lay_out;
pub use sample::{Kind, Wish, loosen, sample_scene, sample_sibling, sample_single};
pub use scene::{Arrangement, CLASSES, LABELS, Scene, Thing};
pub use words::{Colour, Extent, PLURALS, PREFIXES, Place, Relation, Shape, Texture, numeral};
