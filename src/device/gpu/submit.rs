//! Handing work to a GPU, and waiting for it.

use super::adapter::Gpu;
use super::faults::Fault;
use super::submissions::Submitted;
use crate::device::ledger;
use crate::error::{Error, Result};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// Seconds of work that change what is thought of a device's pace by half.
const TELLING: f64 = 0.02;

impl Gpu {
    pub(super) fn out_of_memory(&self, running: &str) -> Error {
        let what = format!(
            "{} has no memory left for {running}: take smaller pictures, fewer at once, or a smaller budget for what is \
             kept",
            self.name()
        );
        Error::Limit { what, needed: 0, available: 0 }
    }

    /// Hands commands over.
    pub(super) fn submit(&self, commands: wgpu::CommandBuffer, running: &str) -> Result<Submitted> {
        ledger::count(|traffic| traffic.submissions += 1);
        match self.inner.submissions.faults.at_submission() {
            Some(Fault::Lost) => self.device().destroy(),
            Some(Fault::OutOfMemory) => return Err(self.out_of_memory(running)),
            Some(Fault::Refused) | None => {}
        }
        self.check_lost(running)?;
        // Numbers are in the order of submissions.
        let mut last = self.inner.submissions.last.lock().unwrap_or_else(PoisonError::into_inner);
        let index = self.queue().submit([commands]);
        *last += 1;
        Ok(Submitted { number: *last, index })
    }

    /// Waits for what was submitted, and all before it.
    pub(in crate::device) fn wait_for(&self, submitted: &Submitted, running: &str) -> Result<()> {
        if self.inner.submissions.done.load(Ordering::Acquire) < submitted.number {
            self.wait(running, Some(submitted.index.clone()))?;
            self.inner.submissions.done.fetch_max(submitted.number, Ordering::AcqRel);
        }
        self.check_lost(running)
    }

    /// Whether what was submitted is done, without waiting.
    pub(in crate::device) fn is_done(&self, submitted: &Submitted, running: &str) -> Result<bool> {
        self.check_lost(running)?;
        if self.inner.submissions.done.load(Ordering::Acquire) >= submitted.number {
            return Ok(true);
        }
        let index = Some(submitted.index.clone());
        let timeout = Some(std::time::Duration::ZERO);
        let polled = self.device().poll(wgpu::PollType::Wait { submission_index: index, timeout });
        if polled.is_ok() {
            self.inner.submissions.done.fetch_max(submitted.number, Ordering::AcqRel);
        }
        Ok(polled.is_ok())
    }

    /// Waits for a submission, or for all of them.
    pub(super) fn wait(&self, running: &str, submission: Option<wgpu::SubmissionIndex>) -> Result<()> {
        ledger::count(|traffic| traffic.waits += 1);
        let polled = self.device().poll(wgpu::PollType::Wait { submission_index: submission, timeout: None });
        self.check_lost(running)?;
        match polled {
            Ok(_) => Ok(()),
            Err(e) => Err(Error::Lost { running: running.to_string(), reason: e.to_string() }),
        }
    }

    /// Work it does in a second.
    pub(super) fn pace(&self) -> f64 {
        f64::from_bits(self.inner.submissions.pace.load(Ordering::Relaxed))
    }

    /// Learns that work took so many seconds, or at most as many where its end was not `seen`.
    pub(super) fn learn_pace(&self, work: f64, seconds: f64, seen: bool) {
        let (pace, measured) = (self.pace(), work / seconds);
        if seen || measured > pace {
            let share = (0.5 * seconds / TELLING).min(0.5);
            let pace = (1.0 - share) * pace + share * measured;
            self.inner.submissions.pace.store(pace.to_bits(), Ordering::Relaxed);
        }
    }

    /// Has something go wrong at the submission, or the allocation, after so many more: for tests.
    #[doc(hidden)]
    pub fn inject(&self, fault: Fault, after: u64) {
        self.inner.submissions.faults.inject(fault, after);
    }

    /// Has nothing go wrong any more; whether it was still to come.
    #[doc(hidden)]
    pub fn clear_fault(&self) -> bool {
        self.inner.submissions.faults.clear()
    }

    /// A buffer of so many bytes. Errors: the device has no memory for it.
    pub(super) fn buffer(&self, label: &str, size: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        if self.inner.submissions.faults.at_allocation() {
            return Err(self.out_of_memory(label));
        }
        // A multiple of 4, as copies need; a quad of f32 at least, as shaders that read quads bind no less.
        let size = size.max(16).next_multiple_of(4);
        let descriptor =
            wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
        Ok(self.device().create_buffer(&descriptor))
    }
}
