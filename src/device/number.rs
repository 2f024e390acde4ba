//! Numbers that tell things apart.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that nothing else in this process was given.
pub(crate) fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
