//! The commands, one file each, and what several of them share.
//!
//! - [`model`]: which model, on which device. - [`drawing`]: settings of a run. - [`steering`]: guidance by CLIP.
//! - [`output`]: files, lines and progress bars. - [`parse`]: values of arguments. - [`tables`]: what a run costs.
//! - [`remedy`]: which option mends an error.

pub mod bisect;
mod card;
pub mod drawing;
pub mod edit;
pub mod generate;
pub mod loss;
pub mod model;
pub mod output;
pub mod parse;
pub mod plan;
pub mod remedy;
pub mod scenes;
pub mod steering;
pub mod tables;
pub mod train;
pub mod tune;
pub mod variations;
