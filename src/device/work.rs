//! Work that programs do on a device, one after another, and what is known of it.

use super::gpu::{Gpu, GpuQueue, Staging, Submitted};
use super::ledger;
use super::tensor::{DeviceTensor, Place};
use crate::error::Result;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Work of one thread on a device, in its order: runs of programs, copies, what is read of them. It is done when a
/// [ticket](Work::submit) says so; on the CPU, at once.
pub struct Work {
    pub(super) way: Way,
}

pub(super) enum Way {
    Cpu,
    Gpu(Box<GpuQueue>),
}

impl Work {
    /// No work yet, on the CPU.
    pub(super) fn on_cpu() -> Self {
        Work { way: Way::Cpu }
    }

    /// No work yet, on a GPU.
    pub(super) fn on_gpu(gpu: &Gpu) -> Self {
        Work { way: Way::Gpu(Box::new(GpuQueue::new(gpu))) }
    }

    /// Sets a value's elements for the work that comes.
    ///
    /// Errors: a device that fails.
    #[track_caller]
    pub fn write(&mut self, to: &DeviceTensor, values: &[f32]) -> Result<()> {
        match &mut self.way {
            // A write overtakes what is encoded and not handed over: it goes by a value of its own, which is copied in turn.
            Way::Gpu(queue) if queue.is_pending() => {
                let staged = queue.gpu().tensor("staged", values.len(), to.half)?;
                staged.write(values)?;
                self.copy(&staged, to)
            }
            _ => to.write(values),
        }
    }

    /// Sets a value's elements to zero.
    ///
    /// Errors: a device that fails.
    pub fn clear(&mut self, value: &DeviceTensor) -> Result<()> {
        match (&mut self.way, &value.memory) {
            (Way::Gpu(queue), Place::Gpu(_, buffer)) => {
                let size = value.bytes().next_multiple_of(4);
                queue.encoder().clear_buffer(buffer, value.offset(), Some(size));
                Ok(())
            }
            _ => value.write(&vec![0.0; value.len]),
        }
    }

    /// Copies one value's elements to another's.
    ///
    /// Errors: a device that fails.
    ///
    /// # Panics
    /// Where they are not as many, not of one type, or on different devices.
    #[track_caller]
    pub fn copy(&mut self, from: &DeviceTensor, to: &DeviceTensor) -> Result<()> {
        assert_eq!((from.len, from.half), (to.len, to.half), "{from:?} is copied to {to:?}");
        match (&mut self.way, &from.memory, &to.memory) {
            (Way::Cpu, Place::Cpu(_), Place::Cpu(_)) => to.write(&from.read()?),
            (Way::Gpu(queue), Place::Gpu(_, source), Place::Gpu(_, target)) => {
                queue.copy((source, from.offset()), (target, to.offset()), from.bytes());
                Ok(())
            }
            _ => panic!("{from:?} and {to:?} are not both on the device that works"),
        }
    }

    /// Reads a value's elements as they are at this point of the work, without waiting for it.
    ///
    /// Errors: a device that fails.
    pub fn read_later(&mut self, from: &DeviceTensor) -> Result<Reading> {
        match (&mut self.way, &from.memory) {
            (Way::Gpu(queue), Place::Gpu(gpu, buffer)) => {
                ledger::count(|traffic| traffic.read_back += from.bytes());
                let staging = queue.read((buffer, from.offset()), from.bytes())?;
                Ok(Reading(Later::Mapped(gpu.clone(), staging, (from.len, from.half))))
            }
            _ => Ok(Reading(Later::Known(from.read()?))),
        }
    }

    /// Hands over all work so far that is not under way yet. No more than two pieces are: the one before them is waited
    /// for.
    ///
    /// Errors: a device that fails.
    pub fn submit(&mut self) -> Result<Ticket> {
        Ok(Ticket(match &mut self.way {
            Way::Cpu => None,
            Way::Gpu(queue) => {
                let gpu = queue.gpu().clone();
                let submitted = gpu.scoped("a piece of work", || queue.submit())?;
                Some((gpu, submitted))
            }
        }))
    }

    /// Hands over all work and waits until it is done.
    ///
    /// Errors: a device that fails.
    pub fn finish(&mut self) -> Result<()> {
        self.submit()?.wait()
    }
}

/// Work that was handed over. It can be awaited; whoever blocks calls [`Ticket::wait`].
#[derive(Clone, Debug)]
pub struct Ticket(Option<(Gpu, Submitted)>);

impl Ticket {
    /// Waits until the work is done.
    ///
    /// Errors: a device that fails.
    pub fn wait(&self) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |(gpu, submitted)| gpu.wait_for(submitted, "a piece of work"))
    }

    /// Whether the work is done.
    ///
    /// Errors: a device that fails.
    pub fn is_done(&self) -> Result<bool> {
        self.0.as_ref().map_or(Ok(true), |(gpu, submitted)| gpu.is_done(submitted, "a piece of work"))
    }
}

impl Future for Ticket {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        match self.is_done() {
            Ok(false) => {
                // Natively nobody else asks the device: an executor asks again.
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Ok(true) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

/// What is read of a value once the work before is done.
pub struct Reading(Later);

enum Later {
    Known(Vec<f32>),
    Mapped(Gpu, Staging, (usize, bool)),
}

impl Reading {
    /// The values. Errors: the work was not handed over; a device that fails.
    pub fn values(&self) -> Result<Vec<f32>> {
        match &self.0 {
            Later::Known(values) => Ok(values.clone()),
            Later::Mapped(gpu, staging, kind) => gpu.mapped(staging, *kind),
        }
    }
}
