//! One memory budget for all that is kept on a device, in a process of its own: T5-XXL's and IF-I-XL's widths, cut to two
//! blocks, draw prompts one after another on the CPU device and on software Vulkan.

#[path = "../device.rs"]
mod device;
mod model;
#[path = "../common/skipped.rs"]
mod skipped;

use ancestral::cost::Target;
use ancestral::internals::device::ledger::uploads;
use ancestral::{Device, DeviceChoice, Engine, Error, LoadOptions, Picture, Precision, Settings};
use device::{has_f16, on_gpu, skip};
use model::Model;

/// More than everything takes.
const LARGE: u64 = 12_000_000_000;

fn settings() -> Settings {
    Settings::new().steps([1]).size(8, 8).guidance_scale(1.0)
}

fn same(a: &[Picture], b: &[Picture]) -> bool {
    assert!(a.iter().flat_map(|picture| &picture.values).all(|v| v.is_finite()));
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.values == b.values)
}

/// A model on a device.
struct On<'m> {
    model: &'m Model,
    device: Device,
    precision: Precision,
}

impl On<'_> {
    fn engine(&self, memory: u64) -> Engine {
        let device = match &self.device {
            Device::Cpu => DeviceChoice::Cpu,
            Device::Gpu(gpu) => DeviceChoice::Existing(gpu.clone()),
        };
        let (precision, memory) = (Some(self.precision), Some(memory));
        let options = LoadOptions { device, precision, memory, ..LoadOptions::default() };
        Engine::load(self.model.folder(), &options).expect("it loads")
    }

    /// Most bytes in use at once, and of all weights, as planned.
    fn planned(&self, engine: &Engine) -> (u64, u64) {
        let target = Target { precision: self.precision, ..Target::of(&self.device) };
        let cost = engine.plan("a fox", &settings(), &target).expect("it plans");
        (cost.peak, cost.networks.iter().map(|network| network.weights).sum())
    }
}

/// A picture, and the bytes of weights that were brought to the device for it.
fn draw(engine: &Engine, prompt: &str) -> (Vec<Picture>, u64) {
    let (drawn, uploaded) = uploads(|| engine.generate(prompt, settings()));
    (drawn.expect("a picture"), uploaded)
}

/// Where there is room for both, encoder and U-Net come once.
fn a_large_budget_keeps_all(on: &On<'_>) -> Vec<Vec<Picture>> {
    let engine = on.engine(LARGE);
    let memory = on.device.memory();
    let (_, weights) = on.planned(&engine);
    let (fox, uploaded) = draw(&engine, "a fox");
    assert_eq!(uploaded, weights, "the first prompt brings what was planned");
    let (owl, uploaded) = draw(&engine, "an owl");
    assert_eq!((uploaded, memory.evicted()), (0, 0), "the second brings nothing");
    assert!(!same(&fox, &owl), "prompts count");
    let (again, uploaded) = draw(&engine, "a fox");
    assert!(uploaded == 0 && same(&again, &fox));
    assert_eq!(memory.weights(), weights);
    drop(engine);
    assert_eq!(memory.used(), 0, "nothing stays of an engine that is gone");
    vec![fox, owl]
}

/// Where there is room for one at a time, which is what a plan says is needed, what went comes again, and nothing else; the
/// numbers are the same.
fn a_small_budget_brings_what_went(on: &On<'_>, engine: &Engine, right: &[Vec<Picture>]) {
    let ((peak, weights), memory) = (on.planned(engine), on.device.memory());
    // A GPU computes some nodes in several, which no plan knows before they are measured.
    let slack = if matches!(on.device, Device::Cpu) { 0 } else { peak / 50 };
    let budget = peak + slack;
    assert!(budget < weights, "both fit in {budget}");
    memory.set(Some(budget));
    memory.most();
    let (mut resident, mut evicted) = (0, memory.evicted());
    for (i, prompt) in ["a fox", "an owl", "a fox", "an owl"].into_iter().enumerate() {
        let (drawn, uploaded) = draw(engine, prompt);
        assert!(same(&drawn, &right[i % 2]), "{prompt}: other numbers");
        let (now, gone) = (memory.weights(), memory.evicted());
        assert_eq!(resident + uploaded, now + (gone - evicted), "{prompt}: what is there, came and went");
        match i {
            0 => assert_eq!(uploaded, weights),
            // Encoder and U-Net each make room for what the other lacks.
            1 => assert!(uploaded > 0 && uploaded < weights, "{uploaded} of {weights}"),
            // Their prompts are known: the encoder's weights are not read.
            _ => assert_eq!(uploaded, 0),
        }
        (resident, evicted) = (now, gone);
        let most = memory.most();
        assert!(most <= budget, "{prompt}: {most} in use of {budget}");
        assert!(i > 1 || most >= peak - slack, "{prompt}: {most} in use, {peak} planned");
    }
    // A byte less is refused before anything is read.
    memory.set(Some(peak - slack - 1));
    let Err(Error::Limit { what, needed, available }) = engine.generate("a star", settings()) else {
        panic!("a run of {peak} bytes takes less")
    };
    assert!(what.contains("memory budget") && needed > available, "{what}");
}

/// An allocation that the device refuses is tried once more when everything idle has gone; then it is said.
fn refused_allocations_make_room(on: &On<'_>, engine: &Engine, right: &[Vec<Picture>]) {
    let memory = on.device.memory();
    memory.set(Some(LARGE));
    assert!(same(&draw(engine, "a fox").0, &right[0]), "the engine is as good as before");
    draw(engine, "a comet");
    let (kept, evicted) = (memory.used(), memory.evicted());
    // Two pictures' activations are more than one's.
    memory.holds(Some(kept));
    let (drawn, uploaded) = uploads(|| engine.generate("an owl", settings().count(2)));
    let near = |a: &Picture, b: &Picture| a.values.iter().zip(&b.values).all(|(a, b)| (a - b).abs() < 1e-2);
    assert!(near(&drawn.expect("pictures")[0], &right[1][0]));
    assert!(uploaded > 0 && memory.evicted() > evicted, "nothing went");
    memory.holds(Some(1 << 20));
    let Err(Error::Limit { what, .. }) = engine.generate("a moon", settings()) else { panic!("a megabyte") };
    for part in ["no memory for", "of a budget of 12.0 GB", "in use", "would make room"] {
        assert!(what.contains(part), "{part}: {what}");
    }
    memory.holds(None);
    assert!(same(&draw(engine, "a fox").0, &right[0]));
}

fn all(device: &Device, precision: Precision) {
    let model = Model::new();
    let on = On { model: &model, device: device.clone(), precision };
    let right = a_large_budget_keeps_all(&on);
    let engine = on.engine(LARGE);
    a_small_budget_brings_what_went(&on, &engine, &right);
    refused_allocations_make_room(&on, &engine, &right);
    device.memory().set(None);
}

#[test]
fn on_the_cpu() {
    all(&Device::Cpu, Precision::F32);
}

#[test]
fn on_a_gpu() {
    on_gpu(|device| match has_f16(device) {
        // Widths of T5-XXL in f32 are larger than software Vulkan binds.
        true => all(device, Precision::F16),
        false => skip("no f16"),
    });
}
