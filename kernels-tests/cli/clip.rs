//! CLIP guidance from the command line: which CLIP, what steers, and what is wrong with either.

use super::{Folder, copy_tree, refused, stderr, succeeds};
use std::fs;
use std::path::{Path, PathBuf};

fn goldens(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens").join(name)
}

/// The tiny unconditional model of the goldens, two steps, and these arguments.
fn with(args: &[&str]) -> Vec<String> {
    let model = goldens("sdg/diffusion");
    let base = ["--model", model.to_str().unwrap(), "--respacing", "2"];
    base.iter().chain(args).map(|arg| arg.to_string()).collect()
}

fn path(name: &str) -> String {
    goldens(name).to_str().unwrap().to_string()
}

#[track_caller]
fn asked(args: &[&str], parts: &[&str]) {
    refused(&with(args), parts);
}

/// A PNG of one colour, with more on its left.
fn example(folder: &Folder, name: &str, width: u32, height: u32) -> String {
    let path = folder.0.join(name);
    let picture =
        image::RgbImage::from_fn(width, height, |x, _| image::Rgb([(255 * x / width) as u8, 90, 30]));
    picture.save(&path).unwrap();
    path.to_str().unwrap().to_string()
}

/// A prompt steers a model that reads none, differently from another prompt, and the program does not call it useless.
#[test]
fn a_prompt_steers_an_unconditional_model() {
    let place = Folder::new();
    let glide = path("glide");
    let draw = |name: &str, args: &[&str]| {
        let clip = ["--clip-model", &glide, "--output", name];
        let output = succeeds(&place, &with(&[&clip[..], args].concat()));
        assert!(!stderr(&output).contains("changes nothing"), "{}", stderr(&output));
        fs::read(place.0.join(name)).unwrap()
    };
    let fox = draw("fox.png", &["a red fox", "--clip-guidance", "3"]);
    assert_ne!(fox, draw("tree.png", &["a green tree", "--clip-guidance", "3"]));
    assert_eq!(fox, draw("again.png", &["a red fox", "--clip-guidance", "3"]));
    let nothing = draw("nothing.png", &["a red fox", "--clip-guidance", "0"]);
    assert_ne!(fox, nothing);
    // A prompt of one and an example of another shape, by every term, for two pictures.
    let like = example(&place, "like.png", 37, 23);
    let every =
        ["--content", "1", "--structure", "2", "--style", "0.5", "--count", "2", "--output", "all.png"];
    let args = [&["a red fox", "--clip-guidance", "3", "--like", &like, "--clip-model", &glide][..], &every];
    succeeds(&place, &with(&args.concat()));
    assert!(place.0.join("all-0.png").exists() && place.0.join("all-1.png").exists());
}

/// Plain encoders of both kinds and the noised residual network, by an example alone: no text encoder is asked for.
#[test]
fn every_encoder_follows_an_example() {
    let place = Folder::new();
    let like = example(&place, "like.png", 16, 16);
    for (i, clip) in ["vit.pt", "resnet.pt", "transformers", "sdg.pt"].iter().enumerate() {
        let clip = path(&format!("sdg/{clip}"));
        let output = format!("{i}.png");
        let args =
            ["--like", &like, "--style", "1", "--structure", "1", "--content", "1", "--clip-model", &clip];
        succeeds(&place, &with(&[&args[..], &["--output", &output]].concat()));
    }
}

/// An example does not make the prompt one that is read.
#[test]
fn a_prompt_that_nothing_reads_is_said() {
    let place = Folder::new();
    let (like, clip) = (example(&place, "like.png", 16, 16), path("sdg/vit.pt"));
    let output = succeeds(&place, &with(&["a red fox", "--like", &like, "--clip-model", &clip]));
    assert!(stderr(&output).contains("changes nothing"), "{}", stderr(&output));
}

/// GLIDE's CLIP lies beside its networks, also where the model is a file in the working folder.
#[test]
fn a_clip_beside_the_model_is_found() {
    let place = Folder::new();
    copy_tree(&goldens("sdg/diffusion"), &place.0);
    let needed = ["clip_image_enc.pt", "clip_text_enc.pt", "clip_config.yaml"];
    for name in needed {
        fs::copy(goldens("glide").join(name), place.0.join(name)).unwrap();
    }
    copy_tree(&goldens("glide/tokenizer"), &place.0.join("tokenizer"));
    let bare = ["a red fox", "--model", "diffusion.safetensors", "--respacing", "2", "--clip-guidance", "3"];
    succeeds(&place, &[&bare[..], &["--flags", "--num_head_channels 16"]].concat());
    let glide = path("glide");
    let args = ["a red fox", "--model", &glide, "--stages", "1", "--respacing", "2", "--clip-guidance", "3"];
    succeeds(&place, &[&args[..], &["--output", "fox.png"]].concat());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let place = Folder::new();
    let (like, glide) = (example(&place, "like.png", 16, 16), path("glide"));
    asked(&["a fox", "--clip-model", &glide], &["--clip-model", "--clip-guidance"]);
    asked(&["--clip-guidance", "3", "--clip-model", &glide], &["prompt"]);
    asked(&["a fox", "--clip-guidance", "inf", "--clip-model", &glide], &["weight of inf"]);
    asked(&["a fox", "--clip-guidance", "x"], &["--clip-guidance"]);
    asked(&["--style", "1"], &["--like"]);
    asked(&["--like", "no.png", "--clip-model", &glide], &["no.png"]);
    asked(&["--like", &like, "--clip-model", "no.pt"], &["no.pt", "does not exist"]);
    asked(&["--like", &like, "--clip-model", &like], &["like.png"]);
    asked(&["--like", &like], &["no CLIP beside the model", "--clip-model"]);
    let (resnet, vit) = (path("sdg/resnet.pt"), path("sdg/vit.pt"));
    asked(&["a fox", "--clip-guidance", "3", "--clip-model", &resnet], &["no text encoder"]);
    asked(&["a fox", "--clip-guidance", "3", "--clip-model", &vit], &["holds no CLIP tokenizer"]);
    asked(&["--like", &like, "--clip-model", &resnet, "--clip-model", &glide], &["48 numbers", "in 32"]);
    asked(&["--like", &like, "--clip-model", &path("sdg/diffusion")], &["holds no CLIP"]);
    let weights = path("sdg/diffusion/diffusion.safetensors");
    asked(&["--like", &like, "--clip-model", &weights], &["holds no CLIP"]);
}

/// A copy of a golden's CLIP with a file changed.
#[track_caller]
fn broken(name: &str, file: &str, change: impl Fn(Vec<u8>) -> Vec<u8>, parts: &[&str]) {
    let place = Folder::new();
    let like = example(&place, "like.png", 16, 16);
    let folder = place.0.join("clip");
    copy_tree(&goldens(name), &folder);
    let path = folder.join(file);
    fs::write(&path, change(fs::read(&path).unwrap())).unwrap();
    asked(
        &["a fox", "--clip-guidance", "1", "--like", &like, "--clip-model", folder.to_str().unwrap()],
        parts,
    );
}

fn replaced(from: &'static str, to: &'static str) -> impl Fn(Vec<u8>) -> Vec<u8> {
    move |bytes| {
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains(from), "{text}");
        text.replace(from, to).into_bytes()
    }
}

#[test]
fn broken_files_are_refused() {
    let yaml = |from, to, parts: &[&str]| broken("glide", "clip_config.yaml", replaced(from, to), parts);
    yaml("n_head_image: 3", "n_head_image: 5", &["n_head_image", "5", "3"]);
    yaml("n_head_state_text: 16", "n_head_state_text: 7", &["32 channels", "heads of 7"]);
    yaml("patch_size: 4", "patch_size: 8", &["patch_size"]);
    yaml("logit_scale: 100.0", "logit_scale: many", &["logit_scale", "many"]);
    yaml("logit_scale: 100.0", "logit_scale: -1", &["logit scale"]);
    yaml("squaredcos_cap_v2", "sometimes", &["beta_schedule", "sometimes"]);
    yaml("n_xf_blocks_text: 2", "nonsense", &["clip_config.yaml", "key: value"]);
    broken("glide", "clip_image_enc.pt", |bytes| bytes[..bytes.len() / 2].to_vec(), &["clip_image_enc.pt"]);
    broken("glide", "clip_text_enc.pt", |_| Vec::new(), &["clip_text_enc.pt"]);
    let json =
        |from, to, parts: &[&str]| broken("sdg/transformers", "config.json", replaced(from, to), parts);
    json("\"patch_size\": 8", "\"patch_size\": 5", &["config.json", "patches of 5"]);
    json("\"hidden_size\": 40", "\"hidden_size\": 48", &["does not fit the model"]);
    json("\"num_attention_heads\": 4", "\"num_attention_heads\": 7", &["7 heads"]);
    json("\"hidden_act\": \"gelu\"", "\"hidden_act\": \"tanh\"", &["tanh"]);
    json("\"image_size\": 32", "\"image_size\": 4000000000", &["image_size"]);
    json("\"vocab_size\": 1073", "\"vocab_size\": -3", &["config.json"]);
    let weights = |bytes: Vec<u8>| bytes[..bytes.len() - 100].to_vec();
    broken("sdg/transformers", "model.safetensors", weights, &["model.safetensors"]);
}

/// An edit by a model that reads no prompt, towards one that CLIP reads; what lies outside the mask stays.
#[test]
fn an_edit_is_steered() {
    let place = Folder::new();
    let photo = example(&place, "photo.png", 40, 30);
    let (model, glide) = (path("sdg/diffusion"), path("glide"));
    let edit = |output: &str, args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ancestral"));
        command.current_dir(&place.0).args(["edit", &photo, "--mask", "5,5,20,20", "--model", &model]);
        command
            .args(["--steps", "3", "--resampling", "1,1", "--device", "cpu", "--output", output])
            .args(args);
        command.output().unwrap()
    };
    let clip = ["--clip-model", &glide, "--clip-guidance", "3"];
    let done = edit("fox.png", &[&["a red fox"][..], &clip].concat());
    assert!(done.status.success(), "{}", stderr(&done));
    assert!(edit("tree.png", &[&["a green tree"][..], &clip].concat()).status.success());
    let read = |name: &str| image::open(place.0.join(name)).unwrap().into_rgb8();
    let (before, fox, tree) = (read("photo.png"), read("fox.png"), read("tree.png"));
    assert_ne!(fox, tree);
    let outside = |(x, y, _): &(u32, u32, &image::Rgb<u8>)| !(5..25).contains(x) || !(5..25).contains(y);
    assert!(fox.enumerate_pixels().filter(outside).all(|(x, y, pixel)| before.get_pixel(x, y) == pixel));
    super::error_of(&edit("nothing.png", &clip), &["--clip-guidance", "prompt"]);
}
