//! From what a caller asks to the [`Run`] it gets.

use super::run::{Alone, Line, Run, StageRun};
use super::stage::Size;
use super::system::{Condition, System};
use crate::diffusion::repaint::{Keeping, Resampling, resampled};
use crate::diffusion::{Sampler, Step};
use crate::error::{Error, Problem, Result, Setting, request};
use crate::models::network::{Shape, Sides};
use crate::picture::{Mask, Picture};
use crate::settings::{Settings, Source, SystemSettings, check_size};

/// Resolves what a caller asks of a model. Everything that can be refused without running a network is refused here.
///
/// Errors ([`Error::Request`]): settings that make no sense, or not with this model.
pub fn resolve(system: &dyn System, prompt: &str, settings: &Settings) -> Result<Run> {
    settings.check()?;
    check_abilities(system, prompt, settings)?;
    let line = system.line(settings)?;
    let own = &line.stages;
    let before = usize::from(line.embedding.is_some());
    let names = names(system, &line);
    settings.steps.check(Setting::Steps, "numbers of steps", &names)?;
    settings.respacing.check(Setting::Respacing, "respacings", &names)?;
    settings.guidance_scale.check(Setting::GuidanceScale, "guidance scales", &names)?;
    let count = count(settings, (before + own.len(), before + line.usual), before)?;
    let sized = |count: usize| Sized::of(system, &line, &own[..count - before], settings);
    let all = before + own.len();
    // Pictures to go on from that only an optional stage enlarges ask for it.
    let optional = settings.stages.is_none() && !settings.given_pictures().is_empty() && count < all;
    let (count, Sized { first, sizes, begins_at }) = match sized(count) {
        Err(_) if optional => (all, sized(all)?),
        found => (count, found?),
    };
    let pictures = settings.pictures();
    let mut stages = Vec::new();
    if let Some(stage) = line.embedding.filter(|_| first == 0 && begins_at.is_none()) {
        stages.push(system.embedding(settings, stage, pictures)?);
    }
    for i in first..count - before {
        let (place, stage) = (before + i, &system.stages()[own[i]]);
        let sampled = |first: usize| system.sampled(own[i], settings, place, first);
        let (all, guidance_scale) = sampled(0)?;
        let steps = match begun(settings, &all) {
            0 => all,
            first => sampled(first)?.0,
        };
        let smaller = if i == 0 { begins_at } else { Some(sizes[i - 1]) };
        let enlarges = smaller.filter(|_| stage.network().enlarges()).map(|(w, h)| (h, w));
        let shape = Shape { enlarges, ..stage.shape(pictures, sizes[i], &steps, guidance_scale) };
        let keeps = settings.start.mask().map(|_| match stage.keeps_estimate {
            true => Keeping::Estimate,
            // A later stage is led by the one before; going back pays in the first.
            false => {
                Keeping::Sample(if i == 0 { settings.resampling } else { Resampling { times: 1, jump: 1 } })
            }
        });
        let steps = match keeps {
            Some(Keeping::Sample(resampling)) => resampled(steps, resampling, |to| Ok(sampled(to)?.0))?,
            _ => steps,
        };
        let first = i == 0 && !stage.network().enlarges();
        let steered = first && !settings.guides.is_empty();
        let (stage, name) = (Some(own[i]), names[place].clone());
        stages.push(StageRun {
            place,
            stage,
            name,
            embedding: false,
            first,
            shape,
            steps,
            guidance_scale,
            keeps,
            steered,
        });
    }
    let (prompts, negative) = (prompts(prompt, settings), settings.negative_prompts.clone());
    let negative = if negative.is_empty() { vec![String::new()] } else { negative };
    let seeds = settings.seeds.of(pictures);
    let run = Run { pictures, seeds, prompts, negative, stages, count, sizes, begins_at };
    let by_ddim = |stage: &StageRun| {
        stage.stage.is_some_and(|i| matches!(system.stages()[i].sampler(settings), Sampler::Ddim { .. }))
    };
    if settings.eta.is_some() && settings.given_latents().is_empty() && !run.stages.iter().any(by_ddim) {
        return Err(request!(
            Eta,
            Unsupported,
            "eta is DDIM's, and no stage of this run samples by DDIM unless it is told to"
        ));
    }
    system.check(&run, settings)?;
    Ok(run)
}

/// What the stages of a run from a prompt, or of one under a mask where a prompt alone makes none, are called.
pub fn stage_names(system: &dyn System) -> Vec<String> {
    let masked = || Settings::new().inpaint([Picture::grey(1, 1)], Mask::new(1, 1, |_, _| true));
    let line = system.line(&Settings::new()).or_else(|_| system.line(&masked()));
    line.map(|line| names(system, &line)).unwrap_or_default()
}

/// What a line's stages are called, by place.
fn names(system: &dyn System, line: &Line) -> Vec<String> {
    let embedding = line.embedding.iter().map(|_| "prior".to_string());
    embedding.chain(line.stages.iter().map(|&i| system.stages()[i].name.clone())).collect()
}

/// The prompts of a run: the argument, or those that take its place.
fn prompts(prompt: &str, settings: &Settings) -> Vec<String> {
    match &settings.source {
        Source::Prompts(given) | Source::Classes(given) => given.clone(),
        Source::Stage { prompts, .. } if !prompts.is_empty() => prompts.clone(),
        _ => vec![prompt.to_string()],
    }
}

/// Refuses what this model does not know.
fn check_abilities(system: &dyn System, prompt: &str, settings: &Settings) -> Result<()> {
    let (condition, able) = (system.condition(), system.abilities());
    let unsupported = |setting, what: &str| Err(Error::request(setting, Problem::Unsupported, what));
    let replaces = matches!(
        settings.source,
        Source::Prompts(_)
            | Source::Classes(_)
            | Source::Image(_)
            | Source::Latents(_)
            | Source::Embeds { .. }
    );
    match &settings.source {
        Source::Classes(_) if condition != Condition::Class => {
            let follows = match condition {
                Condition::Prompt => "this model follows a prompt, no class",
                Condition::Picture => "this model varies a picture, and knows no classes",
                _ => "this model knows no classes",
            };
            return unsupported(Setting::Classes, follows);
        }
        Source::Image(_) if !able.varies_pictures => {
            let what = "only an unCLIP with a picture encoder (Karlo's image variation) varies a picture; to begin at one is \
                        another thing, which every model does";
            return unsupported(Setting::Image, what);
        }
        Source::Latents(_) if !able.draws_latents => {
            return unsupported(Setting::Latents, "only an unCLIP draws latents");
        }
        Source::Embeds { .. } if !able.takes_embeds => {
            let what =
                "this model takes no text states: it has no text encoder, or reads tokens inside its network";
            return unsupported(Setting::Embeds, what);
        }
        _ => {}
    }
    if replaces && !prompt.is_empty() {
        return Err(request!(
            Prompt,
            Conflict,
            "a prompt is given, and with it something that takes its place"
        ));
    }
    let unclip = settings.unclip();
    match &settings.system {
        Some(SystemSettings::Glide(own)) if own.upsample_temp.is_some() && !able.scales_first_noise => {
            unsupported(Setting::UpsampleTemp, "only GLIDE's upsampler takes a temperature")
        }
        _ if (unclip.prior.is_some() || unclip.candidates > 1) && able.priors.is_empty() => {
            let setting = if unclip.prior.is_some() { Setting::Prior } else { Setting::Candidates };
            unsupported(setting, "only an unCLIP draws embeddings by a prior, and this model has none")
        }
        _ => Ok(()),
    }
}

/// How many stages run of those that there are and those that usually do.
fn count(settings: &Settings, (have, usual): (usize, usize), before: usize) -> Result<usize> {
    let count = settings.stages.unwrap_or(usual);
    let refused = |what| Err(Error::request(Setting::Stages, Problem::OutOfRange, what));
    if count == 0 || count > have {
        let range = if have == 1 { "only 1".into() } else { format!("1 to {have}") };
        return refused(format!("{count} stages: this model has {have}; give {range}"));
    }
    if count <= before {
        let what = format!(
            "{count} stages: stage 1 is the prior, which draws no picture: give {} or more",
            before + 1
        );
        return refused(what);
    }
    Ok(count)
}

/// The first step that is taken from the picture a run begins at: as many after it as its share of all, at least one.
fn begun(settings: &Settings, calls: &[Step]) -> usize {
    let steps = calls.last().map_or(0, |step| step.step + 1);
    let count = ((steps as f64 * settings.begun_share()) as usize).clamp(1, steps.max(1));
    steps - count.min(steps)
}

/// The sizes of stages that draw pictures, and which of them is the first to run.
struct Sized {
    first: usize,
    sizes: Vec<Size>,
    begins_at: Option<Size>,
}

impl Sized {
    fn of(system: &dyn System, line: &Line, stages: &[usize], settings: &Settings) -> Result<Sized> {
        let given = settings.given_pictures();
        let small = line.alone.as_ref().map(|alone| alone.side);
        let sides = sides(system, line, stages);
        let mut size = settings.size;
        if let (Some(Alone { any: true, side }), Some(picture), Some(last)) =
            (&line.alone, given.first(), sides.last())
        {
            let scale = last.side / side;
            size = size.or(Some((picture.width * scale, picture.height * scale)));
        }
        let mut sizes = stage_sizes(&sides, size)?;
        check_size(settings.pictures(), sizes.last().copied())?;
        let found = first_stage(settings, &sizes)?;
        let Some(_) = small else {
            let begins_at = found.checked_sub(1).map(|i| sizes[i]);
            return Ok(Sized { first: found, sizes, begins_at });
        };
        if found == 0 {
            return Err(request!(
                FromPictures,
                Missing,
                "an upsampler enlarges a picture: there is none, and no base model before it that draws one"
            ));
        }
        let begins_at = Some(sizes[found - 1]);
        sizes.remove(0);
        Ok(Sized { first: found - 1, sizes, begins_at })
    }
}

/// What stages need of their pictures' size, after what the pictures have that a line whose first stage enlarges begins at.
fn sides(system: &dyn System, line: &Line, stages: &[usize]) -> Vec<Sides> {
    let mut sides: Vec<Sides> =
        line.alone.iter().map(|alone| Sides { side: alone.side, multiple: 1 }).collect();
    for &i in stages {
        let before = sides.last().map_or(1, |sides| sides.side);
        sides.push(system.stages()[i].sides(before));
    }
    sides
}

/// The size of the pictures that a model which only enlarges begins at, for its results to be as large as is asked for;
/// none of other models.
pub fn size_to_enlarge(system: &dyn System, settings: &Settings) -> Option<Size> {
    let line = system.line(settings).ok()?;
    let side = line.alone.as_ref()?.side;
    let count = settings.stages.unwrap_or(line.usual).clamp(1, line.stages.len());
    // A size that cannot be is refused where the run is resolved.
    let sizes = stage_sizes(&sides(system, &line, &line.stages[..count]), settings.size);
    Some(sizes.map_or((side, side), |sizes| sizes[0]))
}

/// The first stage that runs: 0, or the one after that whose size the given pictures have.
fn first_stage(settings: &Settings, sizes: &[Size]) -> Result<usize> {
    let pictures = settings.given_pictures();
    let Some(picture) = pictures.first() else { return Ok(0) };
    let before_last = &sizes[..sizes.len() - 1];
    if before_last.is_empty() {
        return Err(request!(FromPictures, Unsupported, "there is no stage that enlarges a picture"));
    }
    let size = (picture.width, picture.height);
    let alike = pictures.iter().all(|p| (p.width, p.height, p.channels) == (size.0, size.1, 3));
    match before_last.iter().position(|s| *s == size) {
        Some(stage) if alike => Ok(stage + 1),
        _ => {
            let named = before_last.iter().map(|(w, h)| format!("{w}x{h}")).collect::<Vec<_>>().join(" or ");
            Err(request!(
                FromPictures,
                Mismatch,
                "a picture of {}x{} pixels to go on from: the stages before the last make {named}, in colour",
                size.0,
                size.1
            ))
        }
    }
}

/// Width and height of every stage: the networks' own, scaled so that the last has the size asked for.
pub(crate) fn stage_sizes(stages: &[Sides], size: Option<Size>) -> Result<Vec<Size>> {
    let last = stages.last().map_or(1, |s| s.side.max(1));
    let (width, height) = size.unwrap_or((last, last));
    // The smallest final size that gives each stage a multiple of what it needs; all sizes are multiples of it.
    let unit = stages.iter().fold(1, |unit, s| {
        let needed = last * s.multiple / gcd(last * s.multiple, s.side.max(1));
        unit / gcd(unit, needed) * needed
    });
    if width % unit != 0 || height % unit != 0 || width == 0 || height == 0 {
        return Err(request!(
            Size,
            Mismatch,
            "{width}x{height} pixels: this model's width and height are multiples of {unit}"
        ));
    }
    Ok(stages.iter().map(|s| (width * s.side / last, height * s.side / last)).collect())
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
