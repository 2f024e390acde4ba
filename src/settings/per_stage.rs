//! One value for each stage of a run, by its place or its name.

use crate::error::{Error, Problem, Result, Setting};
use serde::{Deserialize, Serialize};

/// Values of a run's stages. Stages that none is given for keep the model's own.
///
/// By place: `25.into()` is the first stage's, `[25, 50].into()` the first two's. By name: `[("decoder", 10)].into()`;
/// stages are called `base`, `prior`, `decoder`, `upscaler`, `upscaler-2` ([`Engine::stage_names`](crate::Engine::stage_names)).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PerStage<T> {
    places: Vec<T>,
    names: Vec<(String, T)>,
}

impl<T> Default for PerStage<T> {
    fn default() -> Self {
        PerStage { places: Vec::new(), names: Vec::new() }
    }
}

impl<T> PerStage<T> {
    /// Also a value for the stage of a name; it goes before one by place.
    pub fn named(mut self, stage: impl Into<String>, value: T) -> Self {
        self.names.push((stage.into(), value));
        self
    }

    /// The value for the stage at `place` called `name`.
    pub fn get(&self, place: usize, name: &str) -> Option<&T> {
        let named = self.names.iter().rfind(|(stage, _)| stage == name);
        named.map(|(_, value)| value).or(self.places.get(place))
    }

    /// Every value that is given.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.places.iter().chain(self.names.iter().map(|(_, value)| value))
    }

    /// Whether none is given.
    pub fn is_empty(&self) -> bool {
        self.values().next().is_none()
    }

    /// Refuses values for more stages than there are, or for one of another name.
    pub(crate) fn check(&self, setting: Setting, what: &str, names: &[String]) -> Result<()> {
        let (given, have) = (self.places.len(), names.len());
        if given > have {
            let plural = if have == 1 { "" } else { "s" };
            let what =
                format!("{given} {what}: this model has {have} stage{plural}; give at most one for each");
            return Err(Error::request(setting, Problem::Mismatch, what));
        }
        match self.names.iter().find(|(stage, _)| !names.contains(stage)) {
            Some((stage, _)) => {
                let what = format!("{what} for a stage `{stage}`: this model's are {}", names.join(", "));
                Err(Error::request(setting, Problem::Mismatch, what))
            }
            None => Ok(()),
        }
    }
}

impl<T> From<T> for PerStage<T> {
    fn from(value: T) -> Self {
        vec![value].into()
    }
}

impl<T> From<Vec<T>> for PerStage<T> {
    fn from(places: Vec<T>) -> Self {
        PerStage { places, names: Vec::new() }
    }
}

impl<T, const N: usize> From<[T; N]> for PerStage<T> {
    fn from(places: [T; N]) -> Self {
        Vec::from(places).into()
    }
}

impl<T: Clone> From<&[T]> for PerStage<T> {
    fn from(places: &[T]) -> Self {
        places.to_vec().into()
    }
}

impl<T, const N: usize> From<[(&str, T); N]> for PerStage<T> {
    fn from(names: [(&str, T); N]) -> Self {
        names.into_iter().fold(PerStage::default(), |all, (stage, value)| all.named(stage, value))
    }
}

impl From<&str> for PerStage<String> {
    fn from(value: &str) -> Self {
        value.to_string().into()
    }
}

impl<const N: usize> From<[&str; N]> for PerStage<String> {
    fn from(places: [&str; N]) -> Self {
        places.map(str::to_string).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_goes_before_a_place() {
        let steps = PerStage::from([25, 50]).named("upscaler", 7);
        assert_eq!(
            [("base", 0), ("upscaler", 1)].map(|(name, at)| steps.get(at, name).copied()),
            [Some(25), Some(7)]
        );
        assert_eq!(steps.get(2, "upscaler-2"), None);
        assert_eq!(PerStage::from(25), PerStage::from([25]));
        assert_eq!(PerStage::<String>::from("250"), PerStage::from(["250"]));
    }

    #[test]
    fn stages_that_are_not_there_are_refused() {
        let names = ["base".to_string(), "upscaler".to_string()];
        let check = |steps: PerStage<usize>| steps.check(Setting::Steps, "numbers of steps", &names);
        assert!(check([1, 2].into()).is_ok() && check([("upscaler", 3)].into()).is_ok());
        let named = check([("decoder", 3)].into()).unwrap_err().to_string();
        assert!(named.contains("`decoder`") && named.contains("base, upscaler"), "{named}");
        assert!(check([1, 2, 3].into()).unwrap_err().to_string().contains("2 stages"));
    }
}
