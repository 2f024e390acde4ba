//! What a run's callbacks were told: a list that they fill and the test reads.

use std::sync::{Arc, Mutex};

pub struct Told<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Told<T> {
    fn clone(&self) -> Self {
        Told(self.0.clone())
    }
}

impl<T> Told<T> {
    pub fn new() -> Self {
        Told(Arc::default())
    }

    pub fn push(&self, what: T) {
        self.0.lock().unwrap().push(what);
    }

    /// Takes all of it out.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}
