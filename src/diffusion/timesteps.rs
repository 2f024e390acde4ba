//! Which of a process' timesteps a run visits.

use super::process::Process;
use super::schedule::space_timesteps;
use crate::error::{Result, request};

/// Which timesteps are visited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Timesteps {
    /// This many, spaced as the configuration says.
    Count(usize),
    /// These, descending.
    Custom(Vec<usize>),
    /// OpenAI's respacing string, see [`space_timesteps`].
    Respaced(String),
}

impl From<usize> for Timesteps {
    fn from(count: usize) -> Self {
        Timesteps::Count(count)
    }
}

impl Timesteps {
    /// The timesteps, descending; at least one, all below `process.num_train_timesteps`.
    ///
    /// Errors ([`Error::Request`]) when that cannot be.
    pub fn resolve(&self, process: &Process) -> Result<Vec<usize>> {
        let total = process.num_train_timesteps;
        match self {
            Timesteps::Count(count) => process.spacing.timesteps(total, *count, process.steps_offset),
            Timesteps::Respaced(respacing) => {
                Ok(space_timesteps(total, respacing)?.into_iter().rev().collect())
            }
            Timesteps::Custom(list) => {
                let descending = list.windows(2).all(|pair| pair[0] > pair[1]);
                match list.first() {
                    Some(&first) if first < total && descending => Ok(list.clone()),
                    _ => Err(request!(
                        Steps,
                        Malformed,
                        "custom timesteps must be at least one, strictly descending and below {total}; found {list:?}"
                    )),
                }
            }
        }
    }
}
