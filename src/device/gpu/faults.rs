//! What tests have a device do wrong.

use std::sync::atomic::{AtomicU64, Ordering};

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device is lost at a submission.
    Lost,
    /// The device runs out of memory at a submission.
    OutOfMemory,
    /// An allocation is refused.
    Refused,
}

/// One fault to come, or none.
#[derive(Default)]
pub(super) struct Faults {
    /// 0: none; else the fault, and how many pass before it.
    kind: AtomicU64,
    left: AtomicU64,
}

const KINDS: [Fault; 3] = [Fault::Lost, Fault::OutOfMemory, Fault::Refused];

impl Faults {
    pub fn inject(&self, fault: Fault, after: u64) {
        self.left.store(after, Ordering::SeqCst);
        let kind = KINDS.iter().position(|kind| *kind == fault).map_or(0, |i| i as u64 + 1);
        self.kind.store(kind, Ordering::SeqCst);
    }

    pub fn clear(&self) {
        self.kind.store(0, Ordering::SeqCst);
    }

    fn due(&self, of: impl Fn(Fault) -> bool) -> Option<Fault> {
        let kind = self.kind.load(Ordering::SeqCst).checked_sub(1)?;
        let fault = *KINDS.get(kind as usize)?;
        if !of(fault) {
            return None;
        }
        let passes = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if passes.is_ok() {
            return None;
        }
        self.kind.store(0, Ordering::SeqCst);
        Some(fault)
    }

    /// What goes wrong at this submission.
    pub fn at_submission(&self) -> Option<Fault> {
        self.due(|fault| fault != Fault::Refused)
    }

    /// Whether this allocation is refused.
    pub fn at_allocation(&self) -> bool {
        self.due(|fault| fault == Fault::Refused).is_some()
    }
}
