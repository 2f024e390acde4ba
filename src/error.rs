//! The one error type: kinds that a program can match, each with its data, in words that name the true cause.

use std::path::{Path, PathBuf};

/// Everything that can go wrong at the edges: requests, files, devices.
///
/// A message says what was found and why it cannot be; it does not know how the caller says things (the command line
/// adds the option that mends it).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A request makes no sense, or not with this model.
    #[error("{what}")]
    Request {
        /// Which setting.
        setting: Setting,
        /// What is the matter with it.
        problem: Problem,
        /// The same in words, with the values.
        what: String,
    },
    /// A model's file or folder is absent, broken, or not what its name promises.
    #[error("{}{part}: {what}", path.display())]
    ModelFile {
        /// The file or folder.
        path: PathBuf,
        /// Which part of it.
        part: Part,
        /// What is wrong with it.
        what: String,
    },
    /// There is no such device, it lacks what the model needs, or it computes what is no number.
    #[error("{what}")]
    Device {
        /// What is wrong.
        what: String,
    },
    /// Something is larger than the device or the kernels allow.
    #[error("{what}")]
    Limit {
        /// What is too large, with its numbers.
        what: String,
        /// Bytes (or elements, where the words say so) that it needs.
        needed: u64,
        /// As many as there may be.
        available: u64,
    },
    /// The device stopped answering while it worked.
    #[error(
        "the device was lost while running {running}: {reason}. To go on, load the model anew, there or on another device"
    )]
    Lost {
        /// The stage and node that were running.
        running: String,
        /// What the driver said.
        reason: String,
    },
    /// A callback or a token asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A file cannot be read or written.
    #[error("{}: {what}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says, and of which attempt.
        what: String,
    },
}

/// A part of a model's file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// All of it.
    Whole,
    /// A key of a configuration.
    Key(String),
    /// A tensor, by its name in the checkpoint.
    Tensor(String),
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Part::Whole => Ok(()),
            Part::Key(key) => write!(f, ": `{key}`"),
            Part::Tensor(name) => write!(f, ": tensor `{name}`"),
        }
    }
}

/// What is the matter with a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Problem {
    /// Beyond what any model takes.
    OutOfRange,
    /// It is needed and not there.
    Missing,
    /// This model does not know it.
    Unsupported,
    /// It cannot be together with another one.
    Conflict,
    /// It does not fit the model, or other settings, in size or number.
    Mismatch,
    /// It cannot be understood, or is broken.
    Malformed,
}

/// A setting as errors name it: of a run ([`Settings`](crate::Settings)), or of how a model is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is the setting of its name")]
pub enum Setting {
    Model,
    Variant,
    Classifier,
    Flags,
    Lora,
    ClipModel,
    Prompt,
    NegativePrompt,
    Embeds,
    Classes,
    Image,
    Latents,
    FromPictures,
    Init,
    Strength,
    Mask,
    Resampling,
    Seeds,
    Count,
    Size,
    Stages,
    Steps,
    Respacing,
    GuidanceScale,
    Sampler,
    Thresholding,
    Guide,
    UpsampleTemp,
    Prior,
    Candidates,
    Eta,
    Inversion,
    Captions,
    Dimensions,
    Picture,
    Output,
    /// Of a graph or a program that a caller made by itself.
    Graph,
}

/// [`Error::Request`] of a setting and what is the matter with it, in words as `format!` takes them.
macro_rules! request {
    ($setting:ident, $problem:ident, $($what:tt)+) => {
        $crate::error::Error::Request {
            setting: $crate::error::Setting::$setting,
            problem: $crate::error::Problem::$problem,
            what: format!($($what)+),
        }
    };
}
pub(crate) use request;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// [`Error::Request`].
    pub(crate) fn request(setting: Setting, problem: Problem, what: impl Into<String>) -> Self {
        Error::Request { setting, problem, what: what.into() }
    }

    /// [`Error::Device`] from anything printable.
    pub(crate) fn device(what: impl ToString) -> Self {
        Error::Device { what: what.to_string() }
    }

    /// [`Error::ModelFile`] of a whole file or folder.
    pub(crate) fn file(path: impl AsRef<Path>, what: impl ToString) -> Self {
        Error::model_file(path, Part::Whole, what)
    }

    /// [`Error::ModelFile`] of a configuration's key.
    pub(crate) fn config(path: impl AsRef<Path>, key: impl ToString, what: impl ToString) -> Self {
        Error::model_file(path, Part::Key(key.to_string()), what)
    }

    /// [`Error::ModelFile`] of a tensor.
    pub(crate) fn tensor(path: impl AsRef<Path>, name: impl ToString, what: impl ToString) -> Self {
        Error::model_file(path, Part::Tensor(name.to_string()), what)
    }

    fn model_file(path: impl AsRef<Path>, part: Part, what: impl ToString) -> Self {
        Error::ModelFile { path: path.as_ref().to_path_buf(), part, what: what.to_string() }
    }

    /// [`Error::Io`] from anything printable.
    pub(crate) fn io(path: impl AsRef<Path>, what: impl ToString) -> Self {
        Error::Io { path: path.as_ref().to_path_buf(), what: what.to_string() }
    }
}
