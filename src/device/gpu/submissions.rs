//! What is handed to a GPU, what of it is done, and how fast it goes.

use super::faults::Faults;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

/// What a device is thought to do in a second before it has done anything.
const FIRST_PACE: f64 = 2e9;

/// Work that was handed to a GPU.
#[derive(Clone, Debug)]
pub(in crate::device) struct Submitted {
    pub(super) number: u64,
    pub(super) index: wgpu::SubmissionIndex,
}

/// A device's submissions so far.
pub(super) struct Submissions {
    /// The number of the last, and of the last that is known to be done.
    pub(super) last: Mutex<u64>,
    pub(super) done: AtomicU64,
    /// Work (operations and elements moved) it does in a second, as measured; the bits of an f64.
    pub(super) pace: AtomicU64,
    /// What tests have go wrong.
    pub(super) faults: Faults,
}

impl Default for Submissions {
    fn default() -> Self {
        let pace = AtomicU64::new(FIRST_PACE.to_bits());
        Submissions { last: Mutex::default(), done: AtomicU64::default(), pace, faults: Faults::default() }
    }
}
