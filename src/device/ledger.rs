//! A count of what programs a piece of work runs, so that tests can hold a plan to it.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};

/// A program's part in a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    program: u64,
    /// Nodes of its graph, as it runs.
    pub dispatches: usize,
    /// How often it ran.
    pub runs: usize,
}

thread_local! {
    /// Bytes of weights that this thread's programs brought to their devices.
    static UPLOADED: Cell<u64> = const { Cell::new(0) };
    static LEDGER: RefCell<Option<Vec<Ran>>> = const { RefCell::new(None) };
}

/// What the programs that `work` runs on this thread are, in the order in which each ran first. Those without nodes
/// do nothing and are left out.
pub fn counted<R>(work: impl FnOnce() -> R) -> (R, Vec<Ran>) {
    LEDGER.with(|ledger| *ledger.borrow_mut() = Some(Vec::new()));
    let done = work();
    (done, LEDGER.with(|ledger| ledger.borrow_mut().take()).unwrap_or_default())
}

/// Bytes of weights that the programs which `work` makes on this thread bring to their devices: what is there already is
/// none of them.
pub fn uploads<R>(work: impl FnOnce() -> R) -> (R, u64) {
    let before = UPLOADED.get();
    let done = work();
    (done, UPLOADED.get() - before)
}

/// Notes bytes of weights that came to a device.
pub(super) fn uploaded(bytes: u64) {
    UPLOADED.set(UPLOADED.get() + bytes);
}

/// A number for a new program.
pub(super) fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Notes a run, where somebody counts.
pub(super) fn note(program: u64, dispatches: usize) {
    if dispatches == 0 {
        return;
    }
    LEDGER.with(|ledger| {
        if let Some(ran) = ledger.borrow_mut().as_mut() {
            match ran.iter_mut().find(|ran| ran.program == program) {
                Some(ran) => ran.runs += 1,
                None => ran.push(Ran { program, dispatches, runs: 1 }),
            }
        }
    });
}
