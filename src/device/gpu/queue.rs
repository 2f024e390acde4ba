//! Work on its way to a GPU: encoded, handed over in pieces of a bounded cost, waited for two pieces later.

use super::adapter::Gpu;
use super::submissions::Submitted;
use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A submission should take about this long, so that no watchdog fires and a cancel is heard.
const SUBMISSION: Duration = Duration::from_millis(100);
/// How many submissions are under way at most: one that runs, and one behind it.
const UNDER_WAY: usize = 2;

/// A dispatch ready to be encoded.
#[derive(Clone)]
pub(super) struct Dispatch<'a> {
    pub pipeline: &'a wgpu::ComputePipeline,
    pub bind_group: &'a wgpu::BindGroup,
    pub grid: [u32; 3],
    pub work: f64,
    pub label: &'a str,
}

/// Commands of one thread, in their order.
pub(in crate::device) struct GpuQueue {
    gpu: Gpu,
    encoder: Option<wgpu::CommandEncoder>,
    /// Work and first label of what is encoded and not handed over.
    piece: (f64, String),
    under_way: VecDeque<UnderWay>,
    /// What is read back by what is encoded: mapped once it is handed over.
    readings: Vec<Staging>,
    /// When the last one that was waited for was done.
    done_at: Instant,
}

struct UnderWay {
    submitted: Submitted,
    work: f64,
    label: String,
    at: Instant,
}

impl GpuQueue {
    pub fn new(gpu: &Gpu) -> Self {
        GpuQueue {
            gpu: gpu.clone(),
            encoder: None,
            piece: (0.0, String::new()),
            under_way: VecDeque::new(),
            readings: Vec::new(),
            done_at: Instant::now(),
        }
    }

    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Whether commands wait to be handed over.
    pub fn is_pending(&self) -> bool {
        self.encoder.is_some()
    }

    pub fn encoder(&mut self) -> &mut wgpu::CommandEncoder {
        let device = self.gpu.device();
        self.encoder.get_or_insert_with(|| device.create_command_encoder(&Default::default()))
    }

    /// Encodes dispatches, handing over pieces as they fill; `monitor` is told the share of them that is done at least.
    pub(super) fn dispatch<'a>(
        &mut self,
        dispatches: impl ExactSizeIterator<Item = Dispatch<'a>> + Clone,
        monitor: &mut dyn FnMut(f32) -> bool,
    ) -> Result<()> {
        let total: f64 = dispatches.clone().map(|dispatch| dispatch.work).sum();
        let mut rest = dispatches.peekable();
        let mut encoded = 0.0;
        loop {
            let under_way: f64 = self.under_way.iter().map(|piece| piece.work).sum();
            let done = (encoded - self.piece.0 - under_way).max(0.0);
            if !monitor((done / total.max(1.0)) as f32) {
                return Err(Error::Cancelled);
            }
            let budget = self.gpu.pace() * SUBMISSION.as_secs_f64();
            let mut work = self.piece.0;
            let label = rest.peek().map_or(String::new(), |dispatch| dispatch.label.to_string());
            let mut pass = self.encoder().begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: Some(&label),
                timestamp_writes: None,
            });
            while let Some(dispatch) = rest.next_if(|next| work == 0.0 || work + next.work <= budget) {
                pass.set_pipeline(dispatch.pipeline);
                pass.set_bind_group(0, dispatch.bind_group, &[]);
                pass.dispatch_workgroups(dispatch.grid[0], dispatch.grid[1], dispatch.grid[2]);
                work += dispatch.work;
            }
            drop(pass);
            encoded += work - self.piece.0;
            if self.piece.1.is_empty() {
                self.piece.1 = label;
            }
            self.piece.0 = work;
            if rest.peek().is_none() {
                return Ok(());
            }
            self.submit()?;
        }
    }

    /// Copies bytes of one buffer to another: whole words.
    pub fn copy(&mut self, (from, at): (&wgpu::Buffer, u64), (to, first): (&wgpu::Buffer, u64), bytes: u64) {
        self.encoder().copy_buffer_to_buffer(from, at, to, first, bytes.next_multiple_of(4));
    }

    /// A buffer that will hold bytes of another as they are then, mapped once the work is handed over and done.
    pub fn read(&mut self, (from, at): (&wgpu::Buffer, u64), bytes: u64) -> Result<Staging> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let buffer = self.gpu.buffer("read back", bytes, usage)?;
        self.copy((from, at), (&buffer, 0), bytes);
        let staging = Staging::new(buffer);
        self.readings.push(staging.clone());
        Ok(staging)
    }

    /// Hands over what is encoded, once the work before the last is done.
    pub fn submit(&mut self) -> Result<Submitted> {
        let encoder = match self.encoder.take() {
            Some(encoder) => encoder,
            None => self.gpu.device().create_command_encoder(&Default::default()),
        };
        let commands = encoder.finish();
        while self.under_way.len() >= UNDER_WAY {
            self.wait_for_one()?;
        }
        let (work, label) = std::mem::take(&mut self.piece);
        let submitted = self.gpu.submit(commands, &label)?;
        for staging in self.readings.drain(..) {
            staging.map();
        }
        self.under_way.push_back(UnderWay { submitted: submitted.clone(), work, label, at: Instant::now() });
        Ok(submitted)
    }

    /// Waits for the oldest piece under way, and learns how fast the device is.
    fn wait_for_one(&mut self) -> Result<()> {
        let Some(piece) = self.under_way.pop_front() else { return Ok(()) };
        let start = Instant::now();
        self.gpu.wait_for(&piece.submitted, &piece.label)?;
        let now = Instant::now();
        // It began once handed over and the one before it was done; when it ended is known where it was waited for.
        let seconds = now.duration_since(self.done_at.max(piece.at)).as_secs_f64().max(1e-6);
        let waited = now.duration_since(start).as_secs_f64() > 0.1 * seconds;
        self.done_at = now;
        self.gpu.learn_pace(piece.work, seconds, waited);
        Ok(())
    }
}

/// A buffer that work is read back through.
#[derive(Clone)]
pub struct Staging {
    buffer: wgpu::Buffer,
    /// Its mapping was asked for: the work is handed over.
    asked: Arc<AtomicBool>,
    /// It is mapped, or never will be.
    answered: Arc<AtomicBool>,
}

impl Staging {
    pub fn new(buffer: wgpu::Buffer) -> Self {
        Staging { buffer, asked: Arc::default(), answered: Arc::default() }
    }

    /// Asks for its mapping, once the work is handed over.
    pub fn map(&self) {
        let answered = self.answered.clone();
        self.asked.store(true, Ordering::Release);
        self.buffer.map_async(wgpu::MapMode::Read, .., move |_| answered.store(true, Ordering::Release));
    }

    /// Its bytes, once the work is handed over and done. Another thread may have seen that end before the mapping was asked
    /// for, or be about to answer it: the device is asked until it has.
    pub fn bytes(&self, gpu: &Gpu) -> Result<wgpu::BufferView> {
        let lost = |reason: String| Error::Lost { running: "a read back".into(), reason };
        while self.asked.load(Ordering::Acquire) && !self.answered.load(Ordering::Acquire) {
            gpu.device().poll(wgpu::PollType::Poll).map_err(|e| lost(e.to_string()))?;
            gpu.check_lost("a read back")?;
            std::thread::yield_now();
        }
        self.buffer.get_mapped_range(..).map_err(|e| lost(e.to_string()))
    }
}
