//! A count of what programs a piece of work runs and what passes between host and device, so that tests can hold a plan
//! and a run to it.

use std::cell::RefCell;

/// A program's part in a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    program: u64,
    /// Nodes of its graph, as it runs.
    pub dispatches: usize,
    /// How often it ran.
    pub runs: usize,
}

/// What passed between host and device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Pieces of work handed to a GPU.
    pub submissions: u64,
    /// Times the host waited for one.
    pub waits: u64,
    /// Bytes written to a GPU, weights included.
    pub uploaded: u64,
    /// Bytes of weights among them.
    pub weights: u64,
    /// Bytes read from a GPU.
    pub read_back: u64,
}

impl std::fmt::Display for Traffic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Traffic { submissions, waits, uploaded, weights, read_back } = self;
        write!(
            f,
            "{submissions} submissions, {waits} waits, {uploaded} bytes uploaded ({weights} of weights), {read_back} read back"
        )
    }
}

impl std::ops::Sub for Traffic {
    type Output = Traffic;
    fn sub(self, other: Traffic) -> Traffic {
        Traffic {
            submissions: self.submissions - other.submissions,
            waits: self.waits - other.waits,
            uploaded: self.uploaded - other.uploaded,
            weights: self.weights - other.weights,
            read_back: self.read_back - other.read_back,
        }
    }
}

thread_local! {
    static LEDGER: RefCell<Option<Vec<Ran>>> = const { RefCell::new(None) };
    static TRAFFIC: RefCell<Traffic> = RefCell::default();
}

/// What the programs that `work` runs on this thread are, in the order in which each ran first. Those without nodes
/// do nothing and are left out.
pub fn counted<R>(work: impl FnOnce() -> R) -> (R, Vec<Ran>) {
    LEDGER.with(|ledger| *ledger.borrow_mut() = Some(Vec::new()));
    let done = work();
    (done, LEDGER.with(|ledger| ledger.borrow_mut().take()).unwrap_or_default())
}

/// What this thread has passed between host and GPUs so far: the difference of two is what was between them.
pub fn traffic() -> Traffic {
    TRAFFIC.with(|traffic| *traffic.borrow())
}

/// Counts something that passes.
pub(super) fn count(add: impl FnOnce(&mut Traffic)) {
    TRAFFIC.with(|traffic| add(&mut traffic.borrow_mut()));
}

/// Bytes of weights that the programs which `work` makes on this thread bring to their devices: what is there already is
/// none of them.
pub fn uploads<R>(work: impl FnOnce() -> R) -> (R, u64) {
    let before = traffic().weights;
    let done = work();
    (done, traffic().weights - before)
}

/// Notes bytes of weights that came to a device.
pub(super) fn uploaded(bytes: u64) {
    count(|traffic| {
        traffic.weights += bytes;
        traffic.uploaded += bytes;
    });
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
