//! Memory that kernels of the CPU device work in, kept by each thread from call to call; and an output that tasks share.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

thread_local! {
    static KEPT: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Floats to work in. The thread that drops them keeps them for the next.
pub(crate) struct Scratch(Vec<f32>, usize);

/// So many floats, which hold anything.
pub(crate) fn scratch(len: usize) -> Scratch {
    let mut memory = KEPT.with_borrow_mut(Vec::pop).unwrap_or_default();
    if memory.len() < len {
        memory.resize(len, 0.0);
    }
    Scratch(memory, len)
}

impl Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.0[..self.1]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0[..self.1]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        KEPT.with_borrow_mut(|kept| kept.push(std::mem::take(&mut self.0)));
    }
}

/// An output of which tasks write elements of their own, where those do not lie side by side.
pub(crate) struct Shared<'a>(*mut f32, usize, PhantomData<&'a mut [f32]>);

// SAFETY: whoever takes slices of it promises that they do not overlap.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(crate) fn new(y: &'a mut [f32]) -> Self {
        Shared(y.as_mut_ptr(), y.len(), PhantomData)
    }

    /// `len` elements from `first` on.
    ///
    /// # Safety
    /// No two slices that overlap may live at a time.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "what the promise is about")]
    pub(crate) unsafe fn slice(&self, first: usize, len: usize) -> &mut [f32] {
        assert!(first + len <= self.1, "an output is too small");
        // SAFETY: the elements are there, and nobody else has them.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(first), len) }
    }
}
