//! The autoregressive prior against PyTorch: logits of known sequences, all at once and token by token from the cache; runs
//! with stored numbers, and the embeddings they draw.

use crate::golden::case::{Case, Checked, Tensor, Tensors, need, text};
use crate::golden::forward;
use crate::golden::report::{Limit, Report};
use ancestral::PromptEmbeds;
use ancestral::internals::device::{Device, ProgramOptions};
use ancestral::internals::diffusion::NoiseStream;
use ancestral::internals::models::ar_prior::TokenSampling;
use ancestral::internals::models::prior::HIDDEN;
use ancestral::internals::pipeline::sampler::StepDone;
use ancestral::internals::pipeline::stage::At;
use ancestral::internals::pipeline::text::Halves;
use ancestral::internals::pipeline::unclip::AutoregressivePrior;
use serde_json::Value;

/// All checks of a case.
pub fn check(case: &Case, device: &Device, report: &mut Report) -> Checked {
    let priors = case.manifest["priors"].as_object().cloned().unwrap_or_default();
    for (name, about) in &priors {
        if !case.holds(&format!("{name}.safetensors")) {
            report.skip(name);
            continue;
        }
        let golden = case.read(&format!("{name}.safetensors"))?;
        let prior = AutoregressivePrior::load(&case.dir.join(name), None).map_err(text)?;
        let mut prior = Prior { case, name, golden, prior };
        prior.check_forward(device, report)?;
        for run in ["guided", "plain"] {
            let of = |key: &str| about[run][key].as_f64().ok_or_else(|| format!("no {key} of `{run}`"));
            let sampling =
                TokenSampling { guidance_scale: of("guidance_scale")?, temperature: of("temperature")? };
            prior.check_run(device, (run, sampling), report)?;
        }
        prior.check_uniforms(about, report)?;
    }
    Ok(())
}

struct Prior<'a> {
    case: &'a Case,
    name: &'a str,
    golden: Tensors,
    prior: AutoregressivePrior,
}

impl Prior<'_> {
    fn need(&self, name: &str) -> Checked<&Tensor> {
        need(&self.golden, name)
    }

    fn spread(&self, name: &str) -> Checked<f64> {
        let spread = self.case.manifest["tolerance_notes"][self.name][name].as_f64();
        spread.ok_or_else(|| format!("the manifest's tolerance_notes have no `{name}` of `{}`", self.name))
    }

    /// Numbers from the stream's seeds.
    fn check_uniforms(&self, about: &Value, report: &mut Report) -> Checked {
        let (seed, uniforms) = (about["seed"].as_u64().ok_or("no seed")?, self.need("uniforms")?);
        for i in 0..uniforms.shape[0] {
            let mut stream = NoiseStream::new(seed + i as u64);
            let found: Vec<f32> = uniforms.at(i).values.iter().map(|_| stream.uniform()).collect();
            report.equal(&format!("{} uniforms {i}", self.name), &found, &uniforms.at(i).values);
        }
        Ok(())
    }

    /// Two rows of the known sequences as a run's captions.
    fn captions(&self, [negative, prompt]: [usize; 2]) -> Checked<Halves> {
        let of = |row: usize| -> Checked<PromptEmbeds> {
            let states = self.need("states")?.at(row);
            let channels = states.shape[states.shape.len() - 1];
            Ok(PromptEmbeds {
                states: states.values,
                channels,
                pooled: self.need("embeds")?.at(row).values,
                mask: self.mask(&self.need("lens")?.values[row..=row]),
                truncated: false,
            })
        };
        Ok(Halves { negative: vec![of(negative)?], prompts: vec![of(prompt)?] })
    }

    fn mask(&self, lens: &[f32]) -> Vec<f32> {
        let length = self.prior.config.max_text_len;
        let row = |len: &f32| {
            let len = *len as usize;
            (0..length).map(move |at| if at < len { 0.0 } else { HIDDEN })
        };
        lens.iter().flat_map(row).collect()
    }

    /// Logits of all places at once.
    fn check_forward(&mut self, device: &Device, report: &mut Report) -> Checked {
        let (config, dots) = (&self.prior.config, self.need("dots")?);
        let rows = dots.values.len();
        let mask = config.mask(&self.mask(&self.need("lens")?.values), config.tokens(), config.tokens());
        let inputs = [
            ("states", &self.need("states")?.values[..]),
            ("embeds", &self.need("embeds")?.values),
            ("dots", &dots.values),
            ("mask", &mask),
            ("components", &self.need("components")?.values),
        ];
        let found = forward::run(device, self.prior.weights(), config.graph(rows), &inputs)?;
        let (out, limit) = (self.need("logits")?, Limit::once(self.spread("logits")?));
        report.golden(&format!("{} logits", self.name), found.get("logits").unwrap_or_default(), out, limit);
        Ok(())
    }

    /// A run token by token, told the golden's tokens, and one by itself; logits by the cache are those without it.
    fn check_run(
        &mut self,
        device: &Device,
        (run, sampling): (&str, TokenSampling),
        report: &mut Report,
    ) -> Checked {
        let (what, config) = (format!("{} {run}", self.name), self.prior.config.clone());
        let (tokens, uniforms) = (self.need(&format!("{run}.tokens"))?, self.need("uniforms")?);
        let (logits, limit) =
            (self.need(&format!("{run}.logits"))?, Limit::once(self.spread(&format!("{run}.logits"))?));
        let (pictures, captions) = (uniforms.shape[0], self.captions([0, 1])?);
        let at = At { device, options: &ProgramOptions::default() };
        let guided = sampling.guidance_scale > 1.0;
        let counts = [usize::from(guided), 1];
        let mut decoder = self.prior.decoder(at, pictures, counts).map_err(text)?;
        // A second run by the same programs sees nothing of the first.
        let mut cached = Vec::new();
        for pass in ["", ", again"] {
            cached.clear();
            for k in 0..config.num_components {
                let found = match k {
                    0 => decoder.begin(&captions, &mut |_| true),
                    _ => {
                        let last: Vec<usize> =
                            (0..pictures).map(|i| tokens.at(i).values[k - 1] as usize).collect();
                        decoder.advance(&last, &mut |_| true)
                    }
                };
                let found = found.map_err(text)?;
                report.golden(&format!("{what} logits {k}{pass}"), &found, &logits.at(k), limit);
                cached.extend(found);
            }
        }
        let known = self.known(device, &captions, (tokens, guided))?;
        report.compare(&format!("{what} logits without a cache"), &known, &cached, limit);

        let tokens: Vec<Vec<usize>> = (0..pictures)
            .map(|i| tokens.at(i).values.iter().map(|token| *token as usize).collect())
            .collect();
        let embeddings = self.need(&format!("{run}.embeddings"))?.clone();
        let spread = Limit::once(self.spread(&format!("{run}.embeddings"))?);
        let uniforms = uniforms.clone();
        let mut count = 0;
        let mut on_step = |_: StepDone<'_>| {
            count += 1;
            true
        };
        let found = self.prior.draw(at, &captions, sampling, &uniforms.values, &mut on_step).map_err(text)?;
        report.equal(&format!("{what} tokens"), &found, &tokens);
        report.equal(&format!("{what} is followed"), &(count >= config.num_components), &true);
        let drawn: Vec<f32> = found.iter().flat_map(|of| self.prior.alphabet.embedding(of)).collect();
        report.golden(&format!("{what} embeddings"), &drawn, &embeddings, spread);
        // A picture is the same alone and among others.
        for (i, tokens) in tokens.iter().enumerate() {
            let alone = self.prior.draw(at, &captions, sampling, &uniforms.at(i).values, &mut |_| true);
            report.equal(
                &format!("{what} tokens of {i} alone"),
                &alone.map_err(text)?,
                &vec![tokens.clone()],
            );
        }
        Ok(())
    }

    /// A run's logits `[K, rows, B]` by one pass over all of its tokens.
    fn known(
        &self,
        device: &Device,
        captions: &Halves,
        (tokens, guided): (&Tensor, bool),
    ) -> Checked<Vec<f32>> {
        let config = &self.prior.config;
        let (pictures, steps, buckets) = (tokens.shape[0], config.num_components, config.num_buckets);
        let halves: &[usize] = if guided { &[0, 1] } else { &[1] };
        let rows = halves.len() * pictures;
        let known = [&captions.negative[0], &captions.prompts[0]];
        let of = |part: &dyn Fn(&PromptEmbeds) -> &[f32]| -> Vec<f32> {
            halves.iter().flat_map(|half| part(known[*half]).repeat(pictures)).collect()
        };
        let dots = [config.dot_unsaid() as f32, config.dot_default as f32];
        let dots: Vec<f32> = halves.iter().flat_map(|half| vec![dots[*half]; pictures]).collect();
        let known: Vec<f32> =
            tokens.values.chunks_exact(steps).flat_map(|of| of[..steps - 1].to_vec()).collect();
        let mask = config.mask(&of(&|embeds| &embeds.mask), config.tokens(), config.tokens());
        let (states, embeds, components) =
            (of(&|embeds| &embeds.states), of(&|embeds| &embeds.pooled), known.repeat(halves.len()));
        let inputs = [
            ("states", &states[..]),
            ("embeds", &embeds),
            ("dots", &dots),
            ("mask", &mask),
            ("components", &components),
        ];
        let found = forward::run(device, self.prior.weights(), config.graph(rows), &inputs)?;
        let found = found.get("logits").ok_or("no logits")?;
        let place = |k: usize, row: usize| &found[(row * steps + k) * buckets..][..buckets];
        Ok((0..steps).flat_map(|k| (0..rows).flat_map(move |row| place(k, row).to_vec())).collect())
    }
}
