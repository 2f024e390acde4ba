//! What a caller is told while a run goes on, and how it stops one.

use crate::error::Result;
use crate::picture::Picture;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What one stage is doing.
pub struct Progress<'a> {
    /// Index of the stage.
    pub stage: usize,
    /// Stages of this run.
    pub stages: usize,
    /// Width and height of the stage's pictures; 1 by 1 where it draws an embedding.
    pub size: (usize, usize),
    /// Steps done, with the share of the running one.
    pub done: f32,
    /// Steps of the stage.
    pub steps: usize,
    pub(crate) estimate: Option<&'a mut dyn FnMut() -> Result<Vec<Picture>>>,
}

impl Progress<'_> {
    /// Reads the stage's current estimate of its final pictures, x̂₀, from the device. There is none in the middle of a
    /// step, nor where an embedding is drawn.
    ///
    /// Errors: a device that fails.
    pub fn estimate(&mut self) -> Result<Option<Vec<Picture>>> {
        self.estimate.as_mut().map(|read| read()).transpose()
    }
}

/// Stops the runs it was given to, from any thread; clones are one token.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that has not been used.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the runs to stop; they end with [`Error::Cancelled`](crate::Error::Cancelled) within a part of a step.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A function of the caller's that clones of its settings share.
pub(crate) struct Callback<F: ?Sized>(Arc<Mutex<F>>);

impl<F: ?Sized> Callback<F> {
    pub(crate) fn new(shared: Arc<Mutex<F>>) -> Self {
        Callback(shared)
    }

    /// Calls it; one call at a time.
    pub(crate) fn with<R>(&self, call: impl FnOnce(&mut F) -> R) -> R {
        call(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<F: ?Sized> Clone for Callback<F> {
    fn clone(&self) -> Self {
        Callback(self.0.clone())
    }
}

impl<F: ?Sized> fmt::Debug for Callback<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a function")
    }
}

/// Called several times a step; returning false cancels the run.
pub(crate) type OnProgress = Callback<dyn FnMut(Progress<'_>) -> bool + Send>;

/// Called with the index of a finished stage and its pictures.
pub(crate) type OnStage = Callback<dyn FnMut(usize, &[Picture]) + Send>;
