//! The sampler's step as programs over values that stay on the device: the sample, what the sampler remembers, what leads it.

use crate::device::{Device, DeviceTensor, Monitor, Program, ProgramOptions, Reading, Weights, Work};
use crate::diffusion::inversion::SETTLED;
use crate::diffusion::numbers::{COUNT, coefficients};
use crate::diffusion::repaint::Keeping;
use crate::diffusion::{Step, Thresholding};
use crate::error::Result;
use crate::graph::{Graph, Storage};
use crate::kernels::fixed_point::{FOUND, MEMORY, SearchState, fixed_point};
use crate::kernels::quantile::quantile;
use crate::kernels::renoise::{self, renoise};
use crate::kernels::steer::{FACTORS, steer};
use crate::kernels::step::{Lead, StepInputs, step};
use crate::models::network::Shape;

/// What leads a step besides the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Leads {
    /// Directions by gradients.
    pub steered: bool,
    /// The known part of x̂₀.
    pub known: bool,
}

impl Leads {
    /// Of a run that is steered or not, and keeps a part of a picture so.
    pub fn of(steered: bool, keeps: Option<Keeping>) -> Self {
        Leads { steered, known: keeps == Some(Keeping::Estimate) }
    }

    fn any(self) -> bool {
        self.steered || self.known
    }
}

/// A kind of step: each is a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kind {
    /// Tensors that the sampler remembers.
    pub memory: usize,
    /// What leads it.
    pub leads: Leads,
    /// It thresholds dynamically.
    pub dynamic: bool,
    /// Only x̂₀ is computed, the sample stays.
    pub held: bool,
}

impl Kind {
    /// A step with nothing that leads it.
    pub fn of(step: &Step) -> Self {
        let dynamic = matches!(step.coefficients.clip, Thresholding::Dynamic { .. });
        Kind { memory: step.coefficients.memory_len, dynamic, ..Kind::default() }
    }

    /// The same of a step that `leads` lead.
    pub fn led(self, leads: Leads) -> Self {
        Kind { leads, ..self }
    }

    /// Only its x̂₀, as it is before anything steers it.
    pub fn hold(self) -> Self {
        Kind { held: true, memory: 0, ..self }
    }
}

/// A kind of step after a network's output of a shape.
pub(super) fn record_step(kind: Kind, shape: Shape, out: &[usize]) -> Graph {
    let mut g = Graph::new();
    let sample = shape.sample();
    let x = g.input("x", &sample, Storage::F32);
    let out = g.input("out", out, Storage::Elem);
    let noise = g.input("noise", &sample, Storage::F32);
    let numbers = g.input("numbers", &[COUNT + sample[0]], Storage::F32);
    let fault = g.input("fault", &[1], Storage::F32);
    let memory = (kind.memory > 0).then(|| {
        let [n, h, w, c] = sample;
        g.input("memory", &[kind.memory, n, h, w, c], Storage::F32)
    });
    let Leads { steered, known } = kind.leads;
    let tensor =
        kind.leads.any().then(|| g.input("lead", &[Lead::len_for(&sample, steered, known)], Storage::F32));
    let lead = tensor.as_ref().map(|tensor| Lead { tensor, steered, kept: known });
    if kind.dynamic {
        quantile(&mut g, &x, &out, &numbers, lead.as_ref());
    }
    let inputs = StepInputs {
        lead,
        memory: memory.as_ref(),
        held: kind.held,
        ..StepInputs::plain(&out, &noise, &numbers, &fault)
    };
    let x0 = step(&mut g, &x, &inputs);
    g.output("x0", &x0);
    g
}

/// A direction added to what leads a step.
pub(super) fn record_steer(shape: Shape, known: bool) -> Graph {
    let mut g = Graph::new();
    let sample = shape.sample();
    let direction = g.input("direction", &sample, Storage::F32);
    let factors = g.input("factors", &[FACTORS], Storage::F32);
    let lead = g.input("lead", &[Lead::len_for(&sample, true, known)], Storage::F32);
    steer(&mut g, &direction, &factors, &lead);
    g
}

/// The sample noised further, or with a known picture in it.
pub(super) fn record_renoise(shape: Shape) -> Graph {
    let mut g = Graph::new();
    let [n, h, w, c] = shape.sample();
    let x = g.input("x", &[n, h, w, c], Storage::F32);
    let known = g.input("known", &[n, h, w, c + 1], Storage::F32);
    let noise = g.input("noise", &[n, h, w, c], Storage::F32);
    let numbers = g.input("numbers", &[renoise::NUMBERS], Storage::F32);
    renoise(&mut g, &x, &known, &noise, &numbers);
    g
}

/// A step of the search for what a step of an inversion begins at.
fn record_search(shape: Shape) -> Graph {
    let mut g = Graph::new();
    let [n, h, w, c] = shape.sample();
    let x = g.input("x", &[n, h, w, c], Storage::F32);
    let first = g.input("first", &[n, h, w, c], Storage::F32);
    let answer = g.input("answer", &[n, h, w, c], Storage::F32);
    let memory = g.input("memory", &[n, MEMORY, h, w, c], Storage::F32);
    let found = g.input("found", &[n, FOUND], Storage::F32);
    let state = SearchState { answer: &answer, memory: &memory, found: &found };
    fixed_point(&mut g, &first, &x, &state, SETTLED);
    g
}

/// The steps of a network's runs.
pub(super) struct Stepper {
    device: Device,
    options: ProgramOptions,
    shape: Shape,
    out_shape: Vec<usize>,
    /// The sample, which every step updates.
    pub x: DeviceTensor,
    /// What the network makes of it.
    out: DeviceTensor,
    noise: DeviceTensor,
    numbers: DeviceTensor,
    /// Not 0 once a step of the run met what is no number.
    pub fault: DeviceTensor,
    /// The estimates x̂₀ of the last two steps, by turns; and whose turn it was.
    estimates: [DeviceTensor; 2],
    turn: usize,
    memory: Option<DeviceTensor>,
    lead: Option<(Leads, DeviceTensor)>,
    programs: Vec<(Kind, Program)>,
    steer: Option<(bool, Program)>,
    renoise: Option<Program>,
    search: Option<Program>,
    /// Where directions that come from the host go.
    direction: Option<DeviceTensor>,
}

impl Stepper {
    pub fn new(
        device: &Device,
        options: &ProgramOptions,
        (shape, out_shape): (Shape, &[usize]),
        [x, out]: [DeviceTensor; 2],
    ) -> Result<Self> {
        let len = x.len();
        let tensor = |len: usize| device.tensor(len, false);
        Ok(Stepper {
            device: device.clone(),
            options: *options,
            shape,
            out_shape: out_shape.to_vec(),
            x,
            out,
            noise: tensor(len)?,
            numbers: tensor(COUNT + shape.pictures)?,
            fault: tensor(1)?,
            estimates: [tensor(len)?, tensor(len)?],
            turn: 0,
            memory: None,
            lead: None,
            programs: Vec::new(),
            steer: None,
            renoise: None,
            search: None,
            direction: None,
        })
    }

    /// The clipped x̂₀ of the last step.
    pub fn estimate(&self) -> &DeviceTensor {
        &self.estimates[self.turn]
    }

    /// Begins a run: nothing went wrong, nothing is remembered, nothing leads.
    pub fn begin(&mut self, work: &mut Work, memory: usize, leads: Leads) -> Result<()> {
        work.clear(&self.fault)?;
        let len = memory * self.x.len();
        if self.memory.as_ref().map_or(0, DeviceTensor::len) != len {
            self.memory = (memory > 0).then(|| self.device.tensor(len, false)).transpose()?;
        }
        self.forget(work)?;
        if leads.any() && self.lead.as_ref().is_none_or(|(of, _)| *of != leads) {
            let len = Lead::len_for(&self.shape.sample(), leads.steered, leads.known);
            self.lead = Some((leads, self.device.tensor(len, false)?));
        }
        Ok(())
    }

    /// Forgets what is remembered.
    pub fn forget(&mut self, work: &mut Work) -> Result<()> {
        self.memory.as_ref().map_or(Ok(()), |memory| work.clear(memory))
    }

    /// Sets the known picture with its share beside it, `[N, H, W, C + 1]`.
    pub fn set_known(&mut self, work: &mut Work, known: &[f32]) -> Result<()> {
        self.lead
            .as_ref()
            .map_or(Ok(()), |(_, lead)| work.write(&lead.part(lead.len() - known.len(), known.len()), known))
    }

    /// Sets a step's noise.
    pub fn set_noise(&mut self, work: &mut Work, z: &[f32]) -> Result<()> {
        work.write(&self.noise, z)
    }

    /// Sets a step's numbers.
    pub fn set(&mut self, work: &mut Work, step: &Step, guidance_scale: f64) -> Result<()> {
        work.write(&self.numbers.part(0, COUNT), &coefficients(step, guidance_scale))
    }

    /// Takes a step, or only its x̂₀, after what the network made of the sample.
    pub fn advance(&mut self, work: &mut Work, kind: Kind, monitor: &mut Monitor<'_>) -> Result<()> {
        let known = self.programs.iter().position(|(made_for, _)| *made_for == kind);
        let at = match known {
            Some(at) => at,
            None => {
                let graph = record_step(kind, self.shape, &self.out_shape);
                let mut program = self.device.program(graph, &Weights::none(), &self.options)?;
                for (name, value) in [
                    ("x", &self.x),
                    ("out", &self.out),
                    ("noise", &self.noise),
                    ("numbers", &self.numbers),
                    ("fault", &self.fault),
                ] {
                    program.bind(name, value)?;
                }
                self.programs.push((kind, program));
                self.programs.len() - 1
            }
        };
        let program = &mut self.programs[at].1;
        if let Some(memory) = self.memory.as_ref().filter(|_| kind.memory > 0) {
            program.bind("memory", memory)?;
        }
        if let Some((_, lead)) = self.lead.as_ref().filter(|_| kind.leads.any()) {
            program.bind("lead", lead)?;
        }
        if !kind.held {
            self.turn = 1 - self.turn;
        }
        let estimate = &self.estimates[if kind.held { 1 - self.turn } else { self.turn }];
        program.bind("x0", estimate)?;
        program.enqueue(work, monitor)
    }

    /// The x̂₀ of a step that was only held.
    pub fn held_estimate(&self) -> &DeviceTensor {
        &self.estimates[1 - self.turn]
    }

    /// Where a direction of `len` elements from the host goes.
    pub fn direction(&mut self, len: usize) -> Result<DeviceTensor> {
        let to = match self.direction.take() {
            Some(to) => to,
            None => self.device.tensor(len, false)?,
        };
        Ok(self.direction.insert(to).clone())
    }

    /// Adds a direction to what leads the step: by so much to x̂₀, to ε, to the next sample, and times σ² to it.
    pub fn steer(
        &mut self,
        work: &mut Work,
        direction: &DeviceTensor,
        factors: [f64; 4],
        begins: bool,
    ) -> Result<()> {
        let Some((leads, lead)) = &self.lead else { return Ok(()) };
        if self.steer.as_ref().is_none_or(|(known, _)| *known != leads.known) {
            let graph = record_steer(self.shape, leads.known);
            let program = self.device.program(graph, &Weights::none(), &self.options)?;
            self.steer = Some((leads.known, program));
        }
        let Some((_, program)) = &mut self.steer else { return Ok(()) };
        program.bind("direction", direction)?;
        program.bind("lead", lead)?;
        let mut numbers = [0.0; FACTORS];
        numbers.iter_mut().zip(factors).for_each(|(to, factor)| *to = factor as f32);
        numbers[4] = if begins { 0.0 } else { 1.0 };
        work.write(&program.value("factors"), &numbers)?;
        program.enqueue(work, &mut |_| true)
    }

    /// x ← m (signal k + deviation z) + (1 − m) (of_x x + of_z z), of `numbers` in this order and with the picture k and
    /// its share m of `known` where `puts` says so.
    pub fn renoise(
        &mut self,
        work: &mut Work,
        [of_x, of_z, signal, noise]: [f64; 4],
        puts: bool,
    ) -> Result<()> {
        let program = self.renoiser()?;
        let puts = if puts { 1.0 } else { 0.0 };
        let numbers = [of_x as f32, of_z as f32, signal as f32, noise as f32, puts, 0.0, 0.0, 0.0];
        let to = program.value("numbers");
        work.write(&to, &numbers)?;
        program.enqueue(work, &mut |_| true)
    }

    /// Sets the picture, its share beside it, that [`Stepper::renoise`] puts in.
    pub fn set_put(&mut self, work: &mut Work, known: &[f32]) -> Result<()> {
        let to = self.renoiser()?.value("known");
        work.write(&to, known)
    }

    /// Begins an inversion that ends at pictures `[N, H, W, C]`.
    pub fn set_end(&mut self, work: &mut Work, pictures: &[f32]) -> Result<()> {
        let to = self.searcher()?.value("answer");
        work.write(&to, pictures)
    }

    /// Begins a step of an inversion: the search for the sample that its [inverse](crate::diffusion::inverse) takes to itself,
    /// with what the step before was answered as noise. That is the first guess, too.
    pub fn begin_search(&mut self, work: &mut Work) -> Result<()> {
        let search = self.searcher()?;
        let (answer, found) = (search.value("answer"), search.value("found"));
        work.copy(&answer, &self.noise)?;
        work.copy(&answer, &self.x)?;
        work.clear(&found)
    }

    /// Goes on with the search from what the inverse step made of the sample, which becomes the next guess. What is read says of
    /// each picture by how much the nearest guess is off, then how often it was looked at.
    pub fn search(&mut self, work: &mut Work) -> Result<Reading> {
        let search = self.searcher()?;
        search.enqueue(work, &mut |_| true)?;
        work.read_later(&search.value("found"))
    }

    /// The answer of the search.
    pub fn answer(&mut self) -> Result<DeviceTensor> {
        Ok(self.searcher()?.value("answer"))
    }

    fn searcher(&mut self) -> Result<&mut Program> {
        let program = match self.search.take() {
            Some(program) => program,
            None => {
                let graph = record_search(self.shape);
                let mut program = self.device.program(graph, &Weights::none(), &self.options)?;
                program.bind("x", &self.x)?;
                program.bind("first", &self.noise)?;
                program
            }
        };
        Ok(self.search.insert(program))
    }

    fn renoiser(&mut self) -> Result<&mut Program> {
        let program = match self.renoise.take() {
            Some(program) => program,
            None => {
                let graph = record_renoise(self.shape);
                let mut program = self.device.program(graph, &Weights::none(), &self.options)?;
                program.bind("x", &self.x)?;
                program.bind("noise", &self.noise)?;
                program
            }
        };
        Ok(self.renoise.insert(program))
    }
}
