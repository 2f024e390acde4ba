//! A run as a stream of events, beside the blocking call.

use super::model::Engine;
use crate::error::{Error, Result};
use crate::picture::Picture;
use crate::settings::{CancelToken, Progress, Settings};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// What happens in a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A stage goes on; several times a step.
    Step {
        /// Index of the stage.
        stage: usize,
        /// Stages of this run.
        stages: usize,
        /// Width and height of the stage's pictures; 1 by 1 where it draws an embedding.
        size: (usize, usize),
        /// Steps done, with the share of the running one.
        done: f32,
        /// Steps of the stage.
        steps: usize,
    },
    /// What the stage's pictures look like so far, x̂₀; where [asked for](Run::with_estimates).
    Estimate {
        /// Index of the stage.
        stage: usize,
        /// One for each picture of the run.
        pictures: Vec<Picture>,
    },
    /// A stage before the last is finished.
    Stage {
        /// Index of the stage.
        stage: usize,
        /// Its pictures, from which [`Settings::from_pictures`] goes on.
        pictures: Vec<Picture>,
    },
    /// A picture is finished; one event for each, and then no more.
    Picture {
        /// Its index in the run.
        index: usize,
        /// The picture.
        picture: Picture,
    },
}

/// A run that goes on by itself: an iterator of what happens in it, which ends with the pictures, or an error. Dropped, it
/// cancels.
///
/// ```
/// use ancestral::{Engine, Event, LoadOptions, Settings};
///
/// let engine = Engine::bundled(&LoadOptions::default())?;
/// for event in engine.start("a red circle", Settings::new().steps([4, 2]).count(2)) {
///     match event? {
///         Event::Step { stage, done, steps, .. } => eprintln!("stage {stage}: {done:.1} of {steps}"),
///         Event::Picture { index, picture } => {
///             picture.save(std::env::temp_dir().join(format!("ancestral-event-{index}.png")))?;
///         }
///         _ => {}
///     }
/// }
/// # Ok::<(), ancestral::Error>(())
/// ```
#[derive(Debug)]
pub struct Run {
    events: Receiver<Result<Event>>,
    token: CancelToken,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Begins [`Engine::generate`] on a thread of its own. Callbacks in the settings are called, too, on that thread.
    pub fn start(&self, prompt: &str, settings: Settings) -> Run {
        Run::with_estimates(self, prompt, settings, None)
    }
}

impl Run {
    /// [`Engine::start`] with an [`Event::Estimate`] after every so many steps; each costs a read from the device.
    pub fn with_estimates(
        engine: &Engine,
        prompt: &str,
        settings: Settings,
        every: impl Into<Option<usize>>,
    ) -> Run {
        let (engine, prompt, every) = (engine.clone(), prompt.to_string(), every.into());
        // Its own: the caller's token may be for other runs, too.
        let token = CancelToken::new();
        let (sender, events) = channel();
        let settings = reporting(settings, &sender, &token, every);
        let thread = std::thread::spawn(move || {
            // Whoever listens may have gone: then nothing is to be said.
            let _ = match engine.generate(&prompt, settings) {
                Ok(pictures) => pictures
                    .into_iter()
                    .enumerate()
                    .try_for_each(|(index, picture)| sender.send(Ok(Event::Picture { index, picture }))),
                Err(error) => sender.send(Err(error)),
            };
        });
        Run { events, token, thread: Some(thread) }
    }

    /// Asks the run to stop: it ends with [`Error::Cancelled`] within a part of a step.
    pub fn cancel(&self) {
        self.token.cancel();
    }

    /// Waits for the end and gives the pictures.
    ///
    /// Errors: as [`Engine::generate`]'s.
    pub fn pictures(self) -> Result<Vec<Picture>> {
        let picture = |event: Result<Event>| match event {
            Ok(Event::Picture { picture, .. }) => Some(Ok(picture)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        };
        let mut run = self;
        run.by_ref().filter_map(picture).collect()
    }
}

/// Settings whose callbacks also send what they are told.
fn reporting(
    settings: Settings,
    sender: &Sender<Result<Event>>,
    token: &CancelToken,
    every: Option<usize>,
) -> Settings {
    let (progress, stage) = (settings.on_progress.clone(), settings.on_stage.clone());
    let (steps, stages, token) = (sender.clone(), sender.clone(), token.clone());
    let on_progress = move |mut at: Progress<'_>| {
        let Progress { stage, stages, size, done, steps: all, .. } = at;
        let _ = steps.send(Ok(Event::Step { stage, stages, size, done, steps: all }));
        let due = every
            .is_some_and(|every| every > 0 && done.fract() == 0.0 && (done as usize).is_multiple_of(every));
        if due && let Some(estimate) = at.estimate().transpose() {
            let _ = steps.send(estimate.map(|pictures| Event::Estimate { stage, pictures }));
        }
        progress.as_ref().is_none_or(|call| call.with(|call| call(at))) && !token.is_cancelled()
    };
    let on_stage = move |index: usize, pictures: &[Picture]| {
        let _ = stages.send(Ok(Event::Stage { stage: index, pictures: pictures.to_vec() }));
        if let Some(call) = &stage {
            call.with(|call| call(index, pictures));
        }
    };
    settings.on_progress(on_progress).on_stage(on_stage)
}

impl Iterator for Run {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Ok(event) = self.events.recv() {
            return Some(event);
        }
        // The thread has nothing more to say: it is done, unless it broke off.
        let thread = self.thread.take()?;
        thread.join().is_err().then(|| Err(Error::device("the run's thread broke off")))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.token.cancel();
        if let Some(thread) = self.thread.take() {
            // Its error was sent, or nobody asks for it any more.
            let _ = thread.join();
        }
    }
}
