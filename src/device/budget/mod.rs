//! One budget for all that is kept on a device: copies of weights, and programs with their activations. When something new
//! needs room, what was used least recently goes: weights that no program reads, and programs that are idle. What is in use
//! stays.
//!
//! A card has one budget, however many of its devices a process opens and however many engines draw on them; so has main
//! memory.

#[cfg(test)]
mod tests;

use super::memory::free_memory;
use super::weight_key::{Copied, WeightKey};
use crate::error::{Error, Result};
use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is taken for a GPU's budget where neither the caller nor the driver says: three quarters of an 8 GB card.
pub const ASSUMED: u64 = 6_000_000_000;

/// Where a device's budget comes from if nobody gives one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usual {
    /// What of main memory is free at the time.
    Machine,
    /// Seven eighths of so many bytes, the card's own memory.
    Card(u64),
    /// The less of both: a GPU whose memory is the machine's.
    Shared(u64),
    /// [`ASSUMED`].
    Unknown,
}

/// What may be used, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    /// Up to here things are kept.
    pub keeps: u64,
    /// What needs more in use at once is refused; none where it is only guessed how much there is.
    pub refuses: Option<u64>,
}

/// The time, as far as one use comes after another.
pub(super) fn now() -> u64 {
    static NOW: AtomicU64 = AtomicU64::new(0);
    NOW.fetch_add(1, Relaxed)
}

/// A part of a budget, given back when it is dropped.
pub(super) struct Charge {
    bytes: u64,
    used: Arc<AtomicU64>,
}

impl Charge {
    /// So many of its bytes, as one of its own.
    pub fn split(&mut self, bytes: u64) -> Charge {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Charge { bytes, used: self.used.clone() }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Relaxed);
    }
}

/// A weight's copy on a device.
pub(super) struct Held {
    pub copy: Copied,
    /// When a program that reads it last ran.
    pub last_used: AtomicU64,
    /// Given back when the copy is dropped.
    charge: Charge,
}

impl Held {
    pub fn new(copy: Copied, charge: Charge) -> Self {
        Held { copy, last_used: AtomicU64::new(now()), charge }
    }

    fn bytes(&self) -> u64 {
        self.charge.bytes
    }
}

/// What lies ready for its owner's next run.
pub(super) struct Idle {
    pub owner: u64,
    /// When it came, which is when it was used.
    pub since: u64,
    pub thing: Box<dyn Any + Send>,
}

#[derive(Default)]
pub(super) struct Kept {
    weights: HashMap<WeightKey, (u64, Arc<Held>)>,
    pub idle: Vec<Idle>,
    /// Copies that came so far.
    came: u64,
    /// Bytes of those that went for want of room.
    evicted: u64,
}

impl Kept {
    /// Takes out what was used least recently of what nobody uses.
    fn oldest(&mut self) -> Option<Box<dyn Any + Send>> {
        let unread = self.weights.iter().filter(|(_, (_, held))| Arc::strong_count(held) == 1);
        let weight = unread.map(|(key, (came, held))| ((held.last_used.load(Relaxed), *came), key));
        let weight = weight.min_by_key(|(age, _)| *age);
        let idle = self.idle.iter().enumerate().map(|(i, idle)| (idle.since, i)).min();
        match (weight, idle) {
            (Some(((used, _), _)), Some((since, i))) if since < used => Some(self.idle.remove(i).thing),
            (Some((_, key)), _) => {
                let key = key.clone();
                let (_, held) = self.weights.remove(&key)?;
                self.evicted += held.bytes();
                Some(Box::new(held))
            }
            (None, Some((_, i))) => Some(self.idle.remove(i).thing),
            (None, None) => None,
        }
    }
}

/// A device's budget, and what is kept within it.
pub struct Memory {
    name: String,
    usual: Usual,
    /// Bytes that a caller gave, or `u64::MAX`.
    given: AtomicU64,
    /// Bytes of all copies and all programs.
    used: Arc<AtomicU64>,
    kept: Mutex<Kept>,
    /// Beyond so many bytes in use, allocations fail.
    holds: AtomicU64,
    /// Most bytes that were used at once.
    most: AtomicU64,
}

/// The budgets of this process.
static DEVICES: Mutex<Vec<Arc<Memory>>> = Mutex::new(Vec::new());

fn devices() -> MutexGuard<'static, Vec<Arc<Memory>>> {
    DEVICES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives back all that an owner has on any device.
pub(super) fn forget(owner: u64) {
    let devices = devices().clone();
    devices.iter().for_each(|memory| memory.forget(owner));
}

impl Memory {
    fn new(name: &str, usual: Usual) -> Self {
        let (given, holds) = (AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX));
        let (used, kept, most) = (Arc::default(), Mutex::default(), AtomicU64::new(0));
        Memory { name: name.into(), usual, given, used, kept, holds, most }
    }

    /// The one of a device that nothing else of this process is called like.
    pub(super) fn of(name: &str, usual: impl FnOnce() -> Usual) -> Arc<Memory> {
        let mut devices = devices();
        if let Some(found) = devices.iter().find(|memory| memory.name == name) {
            return found.clone();
        }
        let memory = Arc::new(Memory::new(name, usual()));
        devices.push(memory.clone());
        memory
    }

    /// Main memory, as far as the CPU device computes in it.
    pub(super) fn main() -> Arc<Memory> {
        Memory::of("CPU", || Usual::Machine)
    }

    /// Sets the budget in bytes; none is what is usual for the device.
    pub fn set(&self, bytes: Option<u64>) {
        self.given.store(bytes.unwrap_or(u64::MAX), Relaxed);
    }

    /// Bytes of all copies of weights and all programs, idle or not.
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Bytes of the copies of weights that are kept.
    pub fn weights(&self) -> u64 {
        self.kept().weights.values().map(|(_, held)| held.bytes()).sum()
    }

    /// Bytes of weights that went so far, for want of room.
    pub fn evicted(&self) -> u64 {
        self.kept().evicted
    }

    /// Most bytes that were used at once since this was last asked.
    pub fn most(&self) -> u64 {
        self.most.swap(self.used(), Relaxed)
    }

    /// Lets allocations fail while more than so many bytes are in use, as on a smaller device: for tests.
    pub fn holds(&self, bytes: Option<u64>) {
        self.holds.store(bytes.unwrap_or(u64::MAX), Relaxed);
    }

    /// Gives back everything that nobody uses.
    pub fn clear(&self) {
        while let Some(oldest) = self.oldest() {
            drop(oldest);
        }
    }

    pub(super) fn budget(&self) -> Budget {
        let used = self.used();
        let free = match self.usual {
            Usual::Machine | Usual::Shared(_) => free_memory(),
            Usual::Card(_) | Usual::Unknown => None,
        };
        let machine = free.map(|free| used + free);
        let given = self.given.load(Relaxed);
        if given < u64::MAX {
            let most = machine.map_or(given, |most| most.min(given));
            return Budget { keeps: most, refuses: Some(most) };
        }
        // A sixteenth of what is free stays so: not all that a run takes is counted.
        let spared = free.map(|free| used + free - free / 16);
        let of_card = |bytes: u64| bytes / 8 * 7;
        let keeps = match self.usual {
            Usual::Machine => spared.unwrap_or(ASSUMED),
            Usual::Card(bytes) => of_card(bytes),
            Usual::Shared(bytes) => spared.unwrap_or(ASSUMED).min(of_card(bytes)),
            Usual::Unknown => ASSUMED,
        };
        Budget { keeps, refuses: machine }
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What goes first, out of the list; whoever drops it does so without the lock, for it may own other things here.
    fn oldest(&self) -> Option<Box<dyn Any + Send>> {
        self.kept().oldest()
    }

    /// Takes so many bytes out of the budget, for which goes what was used least recently.
    ///
    /// Errors: more would be in use than there may be.
    pub(super) fn charge(&self, bytes: u64) -> Result<Charge> {
        // What goes leaves free what it took: the budget stays the same meanwhile.
        let budget = self.budget();
        loop {
            let oldest = {
                let mut kept = self.kept();
                let within = |most: u64| self.used().saturating_add(bytes) <= most;
                let oldest = if within(budget.keeps) { None } else { kept.oldest() };
                if oldest.is_none() {
                    if budget.refuses.is_some_and(|most| !within(most)) {
                        return Err(self.too_much(bytes, budget));
                    }
                    let used = self.used.fetch_add(bytes, Relaxed) + bytes;
                    self.most.fetch_max(used, Relaxed);
                    return Ok(Charge { bytes, used: self.used.clone() });
                }
                oldest
            };
            drop(oldest);
        }
    }

    fn too_much(&self, needed: u64, budget: Budget) -> Error {
        let (used, most) = (self.used(), budget.refuses.unwrap_or(budget.keeps));
        let available = most.saturating_sub(used);
        let what = match most == self.given.load(Relaxed) {
            true => format!(
                "this run needs {} of memory beside the {} that are in use, the memory budget is {}",
                gigabytes(needed),
                gigabytes(used),
                gigabytes(most)
            ),
            false => {
                format!("this run needs {} of memory, {} are free", gigabytes(needed), gigabytes(available))
            }
        };
        Error::Limit { what, needed, available }
    }

    pub(super) fn find(&self, key: &WeightKey) -> Option<Arc<Held>> {
        self.kept().weights.get(key).map(|(_, held)| held.clone())
    }

    /// Notes that an owner's weights are about to be read, and returns those of these that are there.
    pub(super) fn pin<'k>(
        &self,
        owner: u64,
        keys: impl Iterator<Item = &'k WeightKey>,
    ) -> HashMap<WeightKey, Arc<Held>> {
        let (kept, now) = (self.kept(), now());
        let owned = kept.weights.iter().filter(|(key, _)| key.owner == owner);
        owned.for_each(|(_, (_, held))| held.last_used.store(now, Relaxed));
        keys.filter_map(|key| Some((key.clone(), kept.weights.get(key)?.1.clone()))).collect()
    }

    /// Keeps a copy; of two that came at once the first.
    pub(super) fn keep(&self, key: WeightKey, held: Held) -> Arc<Held> {
        let mut kept = self.kept();
        kept.came += 1;
        let came = kept.came;
        kept.weights.entry(key).or_insert_with(|| (came, Arc::new(held))).1.clone()
    }

    fn forget(&self, owner: u64) {
        let gone = {
            let mut kept = self.kept();
            let weights: Vec<_> = kept.weights.extract_if(|key, _| key.owner == owner).collect();
            let idle: Vec<_> = kept.idle.extract_if(.., |idle| idle.owner == owner).collect();
            (weights, idle)
        };
        drop(gone);
    }

    /// Whether an allocation within what is charged already fails: as [`Memory::holds`] says.
    pub(super) fn is_full(&self) -> bool {
        self.used() > self.holds.load(Relaxed)
    }

    /// Makes what allocates. Where the device refuses, everything that nobody uses goes, `settle` waits until it has gone,
    /// and it is tried once more.
    ///
    /// Errors: what `make` says; a second refusal.
    pub(super) fn with_room<T>(
        &self,
        settle: impl Fn() -> Result<()>,
        make: impl Fn() -> Result<T, Refusal>,
    ) -> Result<T> {
        match make() {
            Err(Refusal::Memory { .. }) => {}
            Err(Refusal::Other(error)) => return Err(error),
            Ok(made) => return Ok(made),
        }
        self.clear();
        settle()?;
        make().map_err(|refusal| match refusal {
            Refusal::Other(error) => error,
            Refusal::Memory { what, bytes } => {
                let (used, keeps) = (self.used(), self.budget().keeps);
                let what = format!(
                    "{}: the device has no memory for {what}, {}; {} of a budget of {} are in use, and nothing of it is \
                     idle. A smaller run or other programs' memory would make room",
                    self.name,
                    gigabytes(bytes),
                    gigabytes(used),
                    gigabytes(keeps)
                );
                Error::Limit { what, needed: bytes, available: keeps.saturating_sub(used) }
            }
        })
    }
}

/// Why something is not made.
pub(super) enum Refusal {
    /// The device has no memory for it.
    Memory {
        /// What it is.
        what: String,
        /// Its bytes.
        bytes: u64,
    },
    /// Another error.
    Other(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::Other(error)
    }
}

fn gigabytes(bytes: u64) -> String {
    match bytes as f64 {
        bytes if bytes < 1e8 => format!("{:.1} MB", bytes / 1e6),
        bytes => format!("{:.1} GB", bytes / 1e9),
    }
}
