//! What a trainer holds, as tensors of the checkpoint's layout: to be saved, and gone on from.

use super::parameters::Tensors;
use super::trainer::{Trainer, Value};
use crate::device::DeviceTensor;
use crate::error::{Error, Result, request};
use crate::kernels::optimiser_control::STATE;

/// One of a parameter's tensors.
type Of = fn(&Value) -> &DeviceTensor;

/// A state's tensors of a parameter.
const KINDS: [(&str, Of); 4] = [
    ("weight", |value| &value.weight),
    ("first", |value| &value.first),
    ("second", |value| &value.second),
    ("average", |value| &value.average),
];

impl Trainer {
    /// The optimiser's state as tensors: `weight.`, `first.`, `second.` and `average.` before the checkpoint's names, in its
    /// layout, and `state`.
    ///
    /// # Errors
    /// A device that fails.
    pub fn state(&self) -> Result<Tensors> {
        let mut all = Tensors::new();
        for (kind, of) in KINDS {
            for (name, tensor) in self.tensors(of)? {
                all.insert(format!("{kind}.{name}"), tensor);
            }
        }
        all.insert("state".into(), (vec![STATE], self.state.read()?));
        Ok(all)
    }

    /// Goes on from a [state](Trainer::state).
    ///
    /// # Errors
    /// [`Request`](Error::Request) where it is another network's; a device that fails.
    pub fn resume(&mut self, state: &Tensors) -> Result<()> {
        let other = |name: &str| -> Error {
            request!(
                Graph,
                Mismatch,
                "the training's state is of another network: `{name}` is absent or of another shape"
            )
        };
        for (kind, of) in KINDS {
            let prefix = format!("{kind}.");
            let tensors: Tensors = state
                .iter()
                .filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?.to_string(), tensor.clone())))
                .collect();
            for value in &self.values {
                let values = value.parameter.load(&tensors).ok_or_else(|| other(&value.parameter.name))?;
                of(value).write(&values)?;
            }
        }
        let numbers =
            state.get("state").filter(|(shape, _)| *shape == [STATE]).ok_or_else(|| other("state"))?;
        self.state.write(&numbers.1)?;
        let factors = self.update.as_ref().unwrap_or(&self.batch).input("factors");
        factors.write(&vec![numbers.1[1]; factors.len()])?;
        self.steps = numbers.1[0] as u64;
        self.gathered = 0;
        Ok(())
    }

    fn tensors(&self, of: Of) -> Result<Tensors> {
        let mut tensors = Tensors::new();
        for value in &self.values {
            value.parameter.store(&of(value).read()?, &mut tensors);
        }
        Ok(tensors)
    }

    /// The weights as the checkpoint has them.
    ///
    /// # Errors
    /// A device that fails.
    pub fn weights(&self) -> Result<Tensors> {
        self.tensors(|value| &value.weight)
    }

    /// Their moving average.
    ///
    /// # Errors
    /// A device that fails.
    pub fn averages(&self) -> Result<Tensors> {
        self.tensors(|value| &value.average)
    }
}
