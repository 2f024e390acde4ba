//! What a person at the command line can do about an error: the library says what is wrong, the command which option
//! mends it.

use ancestral::{Error, Problem, Setting};

/// An error of a command's own.
pub fn refuse<T>(setting: Setting, problem: Problem, what: impl Into<String>) -> Result<T, Error> {
    Err(Error::Request { setting, problem, what: what.into() })
}

/// The option that a setting is given by, if there is one, of the command of this name.
fn option(setting: Setting, command: &str) -> Option<&'static str> {
    match (setting, command) {
        (Setting::Count, "blend" | "morph") => return Some("--steps"),
        (Setting::Count, "reconstruct") => return Some("--dimensions"),
        (Setting::Steps, "vary" | "blend" | "morph" | "reconstruct") => return Some("--denoising-steps"),
        _ => {}
    }
    Some(match setting {
        Setting::Model => "--model",
        Setting::Variant => "--variant",
        Setting::Classifier => "--classifier",
        Setting::Flags => "--flags",
        Setting::Lora => "--lora",
        Setting::ClipModel => "--clip-model",
        Setting::NegativePrompt => "--negative-prompt",
        Setting::Classes => "--class",
        Setting::Image => "--image",
        Setting::FromPictures => "--from",
        Setting::Init => "--init",
        Setting::Strength => "--strength",
        Setting::Mask => "--mask",
        Setting::Resampling => "--resampling",
        Setting::Seeds => "--seed",
        Setting::Count => "--count",
        Setting::Size => "--size",
        Setting::Stages => "--stages",
        Setting::Steps => "--steps",
        Setting::Respacing => "--respacing",
        Setting::GuidanceScale => "--guidance-scale",
        Setting::Sampler => "--sampler",
        Setting::Thresholding => "--thresholding",
        Setting::UpsampleTemp => "--upsample-temp",
        Setting::Prior => "--prior",
        Setting::Candidates => "--candidates",
        Setting::Eta => "--eta",
        Setting::Inversion => "--inversion",
        Setting::Output => "--output",
        Setting::Dimensions => "--dimensions",
        _ => return None,
    })
}

/// What mends an error of a command, in words that follow the error's.
pub fn remedy(error: &Error, command: &str) -> Option<String> {
    match error {
        Error::Request { what, .. } if what.ends_with("at any guidance scale but 0") => {
            Some("leave `--size` out, or give `--guidance-scale 0`".into())
        }
        Error::Request { setting: Setting::Mask, problem: Problem::Missing, .. } if command == "generate" => {
            Some("`ancestral edit` takes both".into())
        }
        Error::Request { setting: Setting::Eta, problem: Problem::Unsupported, .. } => {
            Some("give `--sampler ddim` with it, or leave `--eta` out".into())
        }
        Error::Request { setting, problem, what } => {
            let option = option(*setting, command).filter(|option| !what.contains(option))?;
            Some(match problem {
                Problem::Unsupported | Problem::Conflict => format!("leave `{option}` out"),
                Problem::Missing => format!("give `{option}`"),
                _ => format!("give another `{option}`"),
            })
        }
        Error::ModelFile { what, .. } if what.ends_with("a base stage goes before it") => {
            Some("give both: `--model BASE --model THIS`".into())
        }
        Error::Device { what } if what.contains("NaN") => {
            Some("try `--precision f32`, or `--device cpu`".into())
        }
        Error::Device { .. } => {
            Some("`ancestral devices` lists what there is; `--device cpu` always runs".into())
        }
        Error::Lost { .. } => Some("try again, or use `--device cpu`".into()),
        Error::Limit { what, .. } if what.contains("memory budget") => {
            Some("give a larger `--memory`, or a smaller `--size`, `--count` or model".into())
        }
        Error::Limit { .. } => {
            Some("give a smaller `--size`, `--count` or model, or another `--device`".into())
        }
        Error::Io { what, .. } if what.contains("written") || what.contains("folder") => {
            Some("choose another `--output`".into())
        }
        _ => None,
    }
}
