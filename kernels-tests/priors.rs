//! unCLIP's priors by themselves: which one draws, what candidates are, and that a picture's embedding is its own.

use crate::golden::scratch::Scratch;
use crate::token_prior::{COMPONENTS, add_to};
use ancestral::{DeviceChoice, DrawnEmbedding, Engine, LoadOptions, PriorKind, Settings, UnClipSettings};
use std::path::Path;
use std::sync::{Arc, Mutex};

const PROMPT: &str = "a red fox stands near the river";
const BOTH: [PriorKind; 2] = [PriorKind::Diffusion, PriorKind::Autoregressive];

/// The golden `unclip` with an autoregressive prior beside its own.
fn folder() -> Scratch {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/unclip/pipeline");
    let scratch = Scratch::new("priors").expect("a temporary folder");
    scratch.copy(&golden).expect("the golden copies");
    add_to(scratch.path());
    scratch
}

fn load(folder: &Scratch) -> Engine {
    let options = LoadOptions { device: DeviceChoice::Cpu, ..Default::default() };
    Engine::load(folder.path(), &options).expect("the folder loads")
}

/// Settings by which a prior of a kind draws.
fn config_of(kind: PriorKind) -> Settings {
    config().system(UnClipSettings { prior: Some(kind), ..Default::default() })
}

fn config() -> Settings {
    Settings::new().seed(5).steps([4, 3, 2])
}

fn drawn(engine: &Engine, cfg: Settings) -> Vec<DrawnEmbedding> {
    engine.prior_embeddings(PROMPT, cfg).expect("embeddings")
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn either_prior_draws() {
    let folder = folder();
    let engine = load(&folder);
    assert_eq!(engine.priors(), BOTH);
    let usual = drawn(&engine, config());
    let [diffusion, tokens] = BOTH.map(|kind| drawn(&engine, config_of(kind)));
    assert_eq!(usual, diffusion);
    assert!(difference(&tokens[0].embedding, &diffusion[0].embedding) > 0.1);
    assert!(tokens[0].score().abs() <= 1.0 && tokens[0].candidate == 0);
    // What it draws are middles of buckets along the first axes, and the mean along all others.
    let again = drawn(&engine, config_of(PriorKind::Autoregressive).seed(6));
    let (a, b) = (&tokens[0].embedding, &again[0].embedding);
    assert_eq!(a[COMPONENTS..], b[COMPONENTS..]);
    let apart = a.iter().zip(b).map(|(a, b)| f64::from(a - b) / 0.25);
    assert!(apart.clone().all(|buckets| (buckets - buckets.round()).abs() < 1e-5));
    assert!(apart.filter(|buckets| buckets.abs() > 0.5).count() > 2, "two seeds, one embedding");
}

/// The picture that is drawn is the embedding's.
#[test]
fn pictures_are_of_the_prior_that_is_asked_for() {
    let folder = folder();
    let engine = load(&folder);
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let picture = |prior: PriorKind| {
        let seen = tokens.clone();
        let cfg = config_of(prior).on_progress(move |progress| {
            if progress.stage == 0 {
                seen.lock().expect("unpoisoned").push((progress.steps, progress.size));
            }
            true
        });
        engine.generate(PROMPT, cfg).expect("a picture").remove(0).values
    };
    let [diffusion, autoregressive] = BOTH.map(picture);
    assert!(difference(&diffusion, &autoregressive) > 0.01);
    let tokens = tokens.lock().expect("unpoisoned");
    assert_eq!((tokens[0], tokens.last()), ((4, (1, 1)), Some(&(COMPONENTS, (1, 1)))));
}

#[test]
fn a_model_with_tokens_alone_draws_by_them() {
    let folder = folder();
    let with_both = drawn(&load(&folder), config_of(PriorKind::Autoregressive));
    let index = folder.path().join("model_index.json");
    let text = std::fs::read(&index).expect("an index");
    let mut parts: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    parts.as_object_mut().expect("an object").remove("prior");
    std::fs::write(&index, parts.to_string()).expect("writable");
    let engine = load(&folder);
    assert_eq!(engine.priors(), [PriorKind::Autoregressive]);
    assert_eq!(drawn(&engine, config()), with_both);
    let refused = engine.prior_embeddings(PROMPT, config_of(PriorKind::Diffusion)).unwrap_err();
    assert!(refused.to_string().contains("no diffusion prior"), "{refused}");
}

#[test]
fn a_picture_s_embedding_is_its_own() {
    let folder = folder();
    let engine = load(&folder);
    for kind in BOTH {
        let together = drawn(&engine, config_of(kind).count(3));
        for (i, of) in together.iter().enumerate() {
            let alone = drawn(&engine, config_of(kind).seed(5 + i as u64));
            let off = difference(&of.embedding, &alone[0].embedding);
            assert!(off < 1e-4, "{kind}: picture {i} is off by {off}");
        }
        assert!(difference(&together[0].embedding, &together[1].embedding) > 0.1);
    }
}

#[test]
fn the_best_candidate_is_kept() {
    let folder = folder();
    let engine = load(&folder);
    for kind in BOTH {
        let of = |candidates: usize| {
            config().count(2).system(UnClipSettings { prior: Some(kind), candidates, ..Default::default() })
        };
        let one = drawn(&engine, of(1));
        assert_eq!(one, drawn(&engine, config_of(kind).count(2)));
        let four = drawn(&engine, of(4));
        for (one, four) in one.iter().zip(&four) {
            assert_eq!((one.scores.len(), four.scores.len()), (1, 4));
            // The first candidate is what there is without others.
            assert!((one.score() - four.scores[0]).abs() < 1e-5, "{one:?}, {four:?}");
            let best = four.scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            assert!(four.score() >= one.score() - 1e-5 && four.score() == best, "{kind}: {four:?}");
            let mut scores = four.scores.clone();
            scores.sort_by(f64::total_cmp);
            scores.dedup();
            assert_eq!(scores.len(), 4, "{kind}: candidates alike: {scores:?}");
            if four.candidate == 0 {
                assert!(difference(&one.embedding, &four.embedding) < 1e-4);
            }
        }
        assert!(four.iter().any(|of| of.candidate > 0), "{kind}: no candidate was better: {four:?}");
    }
}

#[test]
fn a_run_can_be_cancelled() {
    let folder = folder();
    let engine = load(&folder);
    let before = drawn(&engine, config_of(PriorKind::Autoregressive));
    let cfg = config_of(PriorKind::Autoregressive).on_progress(|progress| progress.done < 3.0);
    let cancelled = engine.prior_embeddings(PROMPT, cfg).unwrap_err();
    assert!(matches!(cancelled, ancestral::Error::Cancelled), "{cancelled}");
    assert_eq!(drawn(&engine, config_of(PriorKind::Autoregressive)), before);
}
