//! The bundled unCLIP: both priors say what the prompt says, pictures come back from their noise, blends end where they
//! should, text diffs move what they name, and the upsampler's pictures are sharp.

use super::{BLUE, RED, WHITE, alike, disc, gpu};
use ancestral::{
    Bundled, Clip, Device, DeviceChoice, Engine, Layout, LoadOptions, Picture, Precision, PriorKind,
};
use ancestral::{Settings, UnClipSettings};

fn engine(device: DeviceChoice) -> Engine {
    let options = LoadOptions { device, precision: Some(Precision::F32), ..Default::default() };
    Engine::bundled_as(Bundled::UnClip, &options).expect("the bundled model loads")
}

fn of(kind: PriorKind) -> UnClipSettings {
    UnClipSettings { prior: Some(kind), ..Default::default() }
}

/// Peak signal-to-noise ratio in dB, of values from -1 to 1.
fn psnr(a: &Picture, b: &Picture) -> f64 {
    let squares = a.values.iter().zip(&b.values).map(|(a, b)| f64::from(a - b).powi(2));
    10.0 * (4.0 * a.values.len() as f64 / squares.sum::<f64>()).log10()
}

/// Mean of blue less red over a picture's middle, -2 to 2.
fn blueness(picture: &Picture) -> f64 {
    let (side, middle) = (picture.width, picture.width * 3 / 8..picture.width * 5 / 8);
    let pixels = middle.clone().flat_map(|y| middle.clone().map(move |x| 3 * (y * side + x)));
    let all: Vec<f64> = pixels.map(|at| f64::from(picture.values[at + 2] - picture.values[at])).collect();
    all.iter().sum::<f64>() / all.len() as f64
}

#[test]
fn embeddings_of_both_priors_fit_their_prompt_best() {
    let (engine, clip) = (engine(DeviceChoice::Cpu), Clip::bundled().expect("the bundled CLIP"));
    let prompts = [
        "a red circle",
        "a blue circle",
        "a red star",
        "a red circle on a blue background",
        "a red circle in the top left corner",
        "two red circles",
        "a red circle above a blue square",
        "a red circle below a blue square",
    ];
    let texts = clip.text_embeddings(&Device::Cpu, &prompts).expect("texts");
    let width = texts.len() / prompts.len();
    for kind in [PriorKind::Diffusion, PriorKind::Autoregressive] {
        let mut right = 0;
        for (i, prompt) in prompts.iter().enumerate() {
            let cfg = Settings::new().seed(1).count(4).system(of(kind));
            for drawn in engine.prior_embeddings(prompt, cfg).expect("embeddings") {
                let cosine =
                    |text: &[f32]| text.iter().zip(&drawn.embedding).map(|(a, b)| a * b).sum::<f32>();
                let cosines: Vec<f32> = texts.chunks_exact(width).map(cosine).collect();
                let best = (0..cosines.len()).max_by(|a, b| cosines[*a].total_cmp(&cosines[*b]));
                right += usize::from(best == Some(i));
            }
        }
        println!("{kind} prior: {right} of {} fit their own prompt best", 4 * prompts.len());
        assert!(right * 10 >= 4 * prompts.len() * 9, "{kind}: {right} of {}", 4 * prompts.len());
    }
}

#[test]
fn a_picture_comes_back_from_its_noise_and_moves_along_captions() {
    let engine = engine(DeviceChoice::Cpu);
    let circle = disc(32, (16.0, 16.0), 6.0, RED, WHITE);
    let small = || Settings::new().seed(2).stages(1);
    let back = engine.vary(&circle, Layout::Kept, small().eta(0.0)).expect("a picture").remove(0);
    let near = psnr(&circle, &back);
    println!("there and back: {near:.1} dB");
    assert!(near > 50.0, "{near} dB");
    // A new layout has the same colours, a disc elsewhere or not.
    let new = engine.vary(&circle, Layout::New, small().count(2)).expect("pictures");
    assert!(psnr(&circle, &new[0]) < near && new[0] != new[1]);
    let moved = engine
        .morph(&circle, ["a red circle", "a blue circle"], &[0.0, 0.4], Layout::Kept, small())
        .expect("pictures");
    let [before, after] = [&moved[0], &moved[1]].map(blueness);
    println!("blue less red in the middle: {before:.2}, moved {after:.2}");
    assert!(moved[0] == back && before < -0.8 && after > before + 1.0, "{before} to {after}");
    // The ends of a blend are the two pictures drawn again, in a batch of another size.
    let other = disc(32, (16.0, 16.0), 6.0, BLUE, WHITE);
    let blend = engine.blend([&circle, &other], 3, Layout::Kept, small()).expect("pictures");
    let end = engine.vary(&other, Layout::Kept, small().eta(0.0)).expect("a picture").remove(0);
    let ends = [psnr(&blend[0], &back), psnr(&blend[2], &end)];
    assert!(ends.iter().all(|near| *near > 60.0), "a blend's ends: {ends:?} dB");
    assert!(blueness(&blend[0]) < blueness(&blend[2]) - 1.0);
}

#[test]
fn the_bundled_unclip_draws_the_same_on_both_devices() {
    let Some(choice) = gpu() else { return };
    for kind in [PriorKind::Diffusion, PriorKind::Autoregressive] {
        let one = |engine: Engine| {
            let steps: &[usize] = if kind == PriorKind::Diffusion { &[8, 8] } else { &[] };
            let cfg = Settings::new().seed(5).stages(2).system(of(kind)).steps(steps);
            engine.generate("a blue star", cfg).expect("a picture").remove(0).to_bytes()
        };
        alike(&one(engine(DeviceChoice::Cpu)), &one(engine(choice.clone()))).expect("the same picture");
    }
}
