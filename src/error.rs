//! The one error type: what is wrong, where, and what to do about it.

use std::path::{Path, PathBuf};

/// Everything that can go wrong at the edges: files, weights, adapters, a user's sizes.
///
/// Each message names the thing, what was expected and found, and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder is absent, unreadable, unwritable or not what its name promises.
    #[error("{}: {what}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        what: String,
    },
    /// A configuration file has a value this program cannot run.
    #[error("{}: `{key}`: {what}", path.display())]
    Config {
        /// The JSON file.
        path: PathBuf,
        /// The key in it.
        key: String,
        /// What is wrong and what to do.
        what: String,
    },
    /// A checkpoint's tensor is missing, superfluous, or of another shape or type.
    #[error("{}: tensor `{name}`: {what}", path.display())]
    Tensor {
        /// The file (or folder of shards).
        path: PathBuf,
        /// The tensor's name in the checkpoint.
        name: String,
        /// What is wrong and what to do.
        what: String,
    },
    /// A request makes no sense: sizes, steps, scales, prompts.
    #[error("{0}")]
    Request(String),
    /// No usable device, or one without what the model needs.
    #[error("{0}")]
    Device(String),
    /// The device stopped answering while it worked.
    #[error("the device was lost while running {running}: {reason}. Try again, or use `--device cpu`")]
    DeviceLost {
        /// The stage and node that were running.
        running: String,
        /// What the driver said.
        reason: String,
    },
    /// The progress callback asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// [`Error::File`] from anything printable.
    pub(crate) fn file(path: impl AsRef<Path>, what: impl ToString) -> Self {
        Error::File { path: path.as_ref().to_path_buf(), what: what.to_string() }
    }

    /// [`Error::Config`] from anything printable.
    pub(crate) fn config(path: impl AsRef<Path>, key: impl ToString, what: impl ToString) -> Self {
        Error::Config { path: path.as_ref().to_path_buf(), key: key.to_string(), what: what.to_string() }
    }

    /// [`Error::Tensor`] from anything printable.
    pub(crate) fn tensor(path: impl AsRef<Path>, name: impl ToString, what: impl ToString) -> Self {
        Error::Tensor { path: path.as_ref().to_path_buf(), name: name.to_string(), what: what.to_string() }
    }
}
