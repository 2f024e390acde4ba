//! Programs that are idle.

use super::budget::{Idle, Memory, forget, now};
use super::number::number;
use std::marker::PhantomData;

/// Programs of one kind that lie ready for their owner's next run, each within its device's budget.
pub struct Shelf<T> {
    owner: u64,
    kind: PhantomData<fn() -> T>,
}

impl<T: Send + 'static> Default for Shelf<T> {
    fn default() -> Self {
        Shelf { owner: number(), kind: PhantomData }
    }
}

impl<T: Send + 'static> Shelf<T> {
    /// Takes one of a device's that fits. If none does, those that lie there go: two at once may not have room.
    pub fn take(&self, memory: &Memory, fits: impl Fn(&T) -> bool) -> Option<T> {
        let mut kept = memory.kept();
        let is = |idle: &Idle| idle.owner == self.owner && idle.thing.downcast_ref().is_some_and(&fits);
        let found = kept.idle.iter().position(is).map(|i| kept.idle.remove(i));
        let gone: Vec<Idle> = match found.is_some() {
            true => Vec::new(),
            false => kept.idle.extract_if(.., |idle| idle.owner == self.owner).collect(),
        };
        drop(kept);
        drop(gone);
        found.and_then(|idle| idle.thing.downcast().ok()).map(|thing| *thing)
    }

    /// Looks at one of a device's, if one lies there.
    pub fn look<R>(&self, memory: &Memory, look: impl Fn(&T) -> R) -> Option<R> {
        let kept = memory.kept();
        let mut own = kept.idle.iter().filter(|idle| idle.owner == self.owner);
        own.find_map(|idle| idle.thing.downcast_ref().map(&look))
    }

    /// Keeps one until it is taken, or until its room is needed.
    pub fn put(&self, memory: &Memory, thing: T) {
        let idle = Idle { owner: self.owner, since: now(), thing: Box::new(thing) };
        memory.kept().idle.push(idle);
    }
}

impl<T> Drop for Shelf<T> {
    fn drop(&mut self) {
        forget(self.owner);
    }
}
