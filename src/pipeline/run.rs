//! A run, resolved once: which stages run, at which sizes, by which steps, led by what. Plain data that drawing, sizes,
//! planning, tuning and progress read.

use super::stage::Size;
use crate::diffusion::Step;
use crate::diffusion::repaint::Keeping;
use crate::models::network::Shape;

/// The stages a run may have, as a system chains them for a request.
pub struct Line {
    /// Which of the system's stages draw pictures, one after another.
    pub stages: Vec<usize>,
    /// So many of them run unless more or fewer are asked for.
    pub usual: usize,
    /// The stage before them that draws an embedding: one of the system's, or a network of another kind.
    pub embedding: Option<Option<usize>>,
    /// The first stage enlarges, too: it goes on from pictures that are given.
    pub alone: Option<Alone>,
}

/// What a line whose first stage enlarges begins at.
pub struct Alone {
    /// Side of the pictures it was trained to enlarge.
    pub side: usize,
    /// Pictures of any size will do.
    pub any: bool,
}

impl Line {
    /// Of stages that all run.
    pub fn all(stages: Vec<usize>) -> Self {
        Line { usual: stages.len(), stages, embedding: None, alone: None }
    }
}

/// A run as it will be.
#[derive(Clone, Debug)]
pub struct Run {
    /// Pictures drawn at once.
    pub pictures: usize,
    /// Their seeds.
    pub seeds: Vec<u64>,
    /// Prompts (or classes), one for all pictures or one for each.
    pub prompts: Vec<String>,
    /// What takes the place of none, likewise.
    pub negative: Vec<String>,
    /// The stages that run, in order.
    pub stages: Vec<StageRun>,
    /// Stages as the caller counts them, those passed over included.
    pub count: usize,
    /// Width and height of the pictures of every stage up to the last that runs, those passed over included.
    pub sizes: Vec<Size>,
    /// What the first stage that runs enlarges, if it goes on from given pictures.
    pub begins_at: Option<Size>,
}

/// One stage of a run.
#[derive(Clone, Debug)]
pub struct StageRun {
    /// Its index as the caller counts them.
    pub place: usize,
    /// Which of the system's stages it is; none where a network of another kind draws.
    pub stage: Option<usize>,
    /// What it is called.
    pub name: String,
    /// It draws an embedding, no picture.
    pub embedding: bool,
    /// It is the first that draws pictures.
    pub first: bool,
    /// Sizes.
    pub shape: Shape,
    /// The calls of the network that it makes, those of stretches that are gone through again among them.
    pub steps: Vec<Step>,
    /// Guidance scale.
    pub guidance_scale: f64,
    /// How it keeps a part of a picture, if it does.
    pub keeps: Option<Keeping>,
    /// The caller's guides steer it.
    pub steered: bool,
}

impl StageRun {
    /// Width and height of its pictures.
    pub fn size(&self) -> Size {
        (self.shape.width, self.shape.height)
    }

    /// Makes standard normals what the first step begins at.
    pub fn scale_first_noise(&self, z: &mut [f32]) {
        let scale = self.steps.first().map_or(1.0, |step| step.start_scale) as f32;
        if scale != 1.0 {
            z.iter_mut().for_each(|z| *z *= scale);
        }
    }

    /// Steps as progress counts them: those that are gone through several times count each time.
    pub fn moves(&self) -> usize {
        self.steps.len()
    }
}
