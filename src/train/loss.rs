//! What a checkpoint loses on pictures: L_simple by timestep, and the variational bound in bits per dimension (Ho et al. 2020,
//! arXiv:2006.11239, table 1; Nichol & Dhariwal 2021, arXiv:2102.09672).

use super::objective::denoising_parts;
use super::task::{Batches, Maker, Model};
use crate::device::{Device, ProgramOptions};
use crate::error::Result;
use crate::graph::Graph;
use std::path::Path;

/// Losses of one stretch of timesteps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stretch {
    /// Its first timestep.
    pub first: usize,
    /// Its last.
    pub last: usize,
    /// Mean squared error of what the network predicts.
    pub error: f64,
    /// Mean of the bound's terms, in bits per dimension.
    pub bits: f64,
    /// Pictures that were looked at.
    pub count: usize,
}

/// What a checkpoint loses.
#[derive(Clone, Debug, PartialEq)]
pub struct Losses {
    /// By timestep, the first ones first.
    pub stretches: Vec<Stretch>,
    /// L_simple: the mean over all timesteps.
    pub simple: f64,
    /// The bound: T times the mean of its terms, and the prior's, in bits per dimension.
    pub bits: f64,
    /// The prior's term.
    pub prior: f64,
}

/// Losses of a model's folder ([`Model::load`]) on `rounds` batches, whose timesteps are spread evenly over all of them, in
/// `stretches` stretches. Captions are all seen.
///
/// # Errors
/// A model or data that cannot be read; a device that fails.
pub fn losses(
    model: &Path,
    device: &Device,
    batches: &Batches,
    (rounds, stretches): (u64, usize),
    watch: &mut dyn FnMut(u64) -> bool,
) -> Result<Losses> {
    let model = Model::load(model)?;
    let mut batches = Batches { caption_dropout: 0.0, bound: false, ..batches.clone() };
    if batches.side == 0 {
        batches.side = model.side();
    }
    let mut maker = Maker::new(&model, &batches, device)?;
    let mut g = Graph::new();
    let (error, bits) = denoising_parts(&mut g, model.network(), model.shape(batches.batch, batches.side));
    g.output("error", &error);
    g.output("bits", &bits);
    let options = ProgramOptions { precision: device.precision(), ..ProgramOptions::default() };
    let mut program = device.program(g, model.weights(), &options)?;
    let noising = model.noising();
    let steps = noising.timesteps();
    let stretches = stretches.clamp(1, steps);
    let mut sums = vec![(0.0, 0.0, 0usize); stretches];
    let (mut prior, mut seen) = (0.0, 0usize);
    for round in 0..rounds.max(1) {
        let batch = maker.batch(round)?;
        let t: Vec<usize> = batch
            .iter()
            .find(|(name, _)| name == "t")
            .map_or(Vec::new(), |(_, t)| t.iter().map(|t| *t as usize).collect());
        for (name, values) in &batch {
            match name.as_str() {
                "weights" => program.write(name, &vec![1.0; t.len()]),
                "x0" => {
                    program.write(name, values);
                    prior += values.iter().map(|x| noising.prior(f64::from(*x))).sum::<f64>();
                    seen += values.len();
                }
                _ => program.write(name, values),
            }
        }
        program.write("bound", &t.iter().flat_map(|t| model.bound(*t, 1.0)).collect::<Vec<f32>>());
        program.run(&mut |_| true)?;
        let (error, bits) = (program.read("error")?, program.read("bits")?);
        for (i, t) in t.iter().enumerate() {
            let sum = &mut sums[t * stretches / steps];
            *sum = (sum.0 + f64::from(error[i]), sum.1 + f64::from(bits[i]), sum.2 + 1);
        }
        if !watch(round + 1) {
            break;
        }
    }
    let stretch = |(i, (error, bits, count)): (usize, &(f64, f64, usize))| Stretch {
        first: (i * steps).div_ceil(stretches),
        last: ((i + 1) * steps).div_ceil(stretches) - 1,
        error: error / (*count).max(1) as f64,
        bits: bits / (*count).max(1) as f64,
        count: *count,
    };
    let stretches: Vec<Stretch> = sums.iter().enumerate().map(stretch).collect();
    let count: usize = stretches.iter().map(|s| s.count).sum();
    let mean = |of: fn(&Stretch) -> f64| {
        stretches.iter().map(|s| of(s) * s.count as f64).sum::<f64>() / count.max(1) as f64
    };
    let prior = prior / seen.max(1) as f64;
    let (simple, bits) = (mean(|s| s.error), mean(|s| s.bits) * steps as f64 + prior);
    Ok(Losses { stretches, simple, bits, prior })
}
