//! The tensors of a pickled value, by their paths in it.

use std::collections::HashSet;

use super::pickle::{Pickle, Span, Tensor, Value};

/// Keys under which trainers keep the weights.
pub(in crate::weights) const WRAPPERS: [&str; 14] = [
    "state_dict",
    "model_state_dict",
    "model",
    "model_state",
    "module",
    "ema",
    "ema_model",
    "ema_state_dict",
    "model_ema",
    "params_ema",
    "params",
    "net",
    "network",
    "weights",
];
/// Keys beside them under which trainers keep their own state.
const TRAINING: [&str; 10] = [
    "optimizer",
    "optimizers",
    "optimizer_state_dict",
    "optimizer_states",
    "opt",
    "lr_scheduler",
    "lr_schedulers",
    "scheduler",
    "scaler",
    "rng_state",
];

/// Deepest nesting; TorchScript's modules reach about 20.
const MAX_DEPTH: usize = 64;
/// Most values looked at: a file whose containers share parts can have many more paths than values.
const MAX_VISITS: usize = 1 << 20;
/// Most tensors, longest name, and most bytes of all names.
const MAX_TENSORS: usize = 1 << 15;
pub(super) const MAX_NAME: usize = 512;
const MAX_NAMES: usize = 4 << 20;

/// A step from the root to a tensor.
#[derive(Clone, Copy)]
enum Step {
    Key(Span),
    Number(i64),
    /// A key that is neither text nor number.
    Unnamed,
}

/// Lists the tensors of a value.
pub(super) struct Walk<'p, 'a> {
    pickle: &'p Pickle<'a>,
    visits: usize,
    /// The containers around the present value, and the way through each.
    path: Vec<(Value, Step)>,
    pub(super) found: Vec<(String, Tensor)>,
    /// Bytes of their names.
    named: usize,
}

/// The children of a container.
enum Children<'a> {
    Items(&'a [Value]),
    Pairs(&'a [(Value, Value)]),
}

impl<'p, 'a> Walk<'p, 'a> {
    pub(super) fn new(pickle: &'p Pickle<'a>) -> Self {
        Walk { pickle, visits: 0, path: Vec::new(), found: Vec::new(), named: 0 }
    }

    /// The value inside all wrappers.
    pub(super) fn unwrap(&mut self, mut root: Value) -> Result<Value, String> {
        while let Value::Dict(n) = root {
            let mut inner = Vec::new();
            for &(key, value) in self.pickle.dict(n) {
                let key = self.key(key);
                if !TRAINING.contains(&key) && self.holds_tensors(value, 0)? {
                    inner.push((key, value));
                }
            }
            match inner[..] {
                [(key, value)]
                    if WRAPPERS.contains(&key) && matches!(value, Value::Dict(_) | Value::Module(_)) =>
                {
                    root = value;
                }
                _ => break,
            }
        }
        Ok(root)
    }

    fn key(&self, key: Value) -> &'p str {
        match key {
            Value::Text(span) => self.pickle.text(span),
            _ => "",
        }
    }

    fn children(&self, value: Value) -> Option<Children<'p>> {
        match value {
            Value::Tuple(span) => Some(Children::Items(self.pickle.tuple(span))),
            Value::List(n) => Some(Children::Items(self.pickle.list(n))),
            Value::Dict(n) => Some(Children::Pairs(self.pickle.dict(n))),
            Value::Module(n) => match self.pickle.module(n)? {
                // Modules of modules only through attributes.
                Value::Module(_) => None,
                attributes => self.children(attributes),
            },
            _ => None,
        }
    }

    fn count(&mut self, depth: usize) -> Result<(), String> {
        self.visits += 1;
        if depth > MAX_DEPTH {
            return Err(format!(
                "its containers are nested more than {MAX_DEPTH} deep, or inside themselves: not a checkpoint of weights"
            ));
        }
        if self.visits > MAX_VISITS {
            return Err(format!(
                "its containers hold each other in more than {MAX_VISITS} ways: not a checkpoint of weights"
            ));
        }
        Ok(())
    }

    fn holds_tensors(&mut self, value: Value, depth: usize) -> Result<bool, String> {
        self.count(depth)?;
        if let Value::Tensor(_) = value {
            return Ok(true);
        }
        let children = self.children(value);
        let mut any = |child| self.holds_tensors(child, depth + 1);
        // The first that holds one, or fails, decides.
        let found = |result: &Result<bool, String>| !matches!(result, Ok(false));
        let decided = match children {
            None => None,
            Some(Children::Items(items)) => items.iter().map(|&child| any(child)).find(found),
            Some(Children::Pairs(pairs)) => pairs.iter().map(|&(_, child)| any(child)).find(found),
        };
        decided.unwrap_or(Ok(false))
    }

    /// Adds every tensor under `value` to those found.
    pub(super) fn visit(&mut self, value: Value) -> Result<(), String> {
        self.count(self.path.len())?;
        if let Value::Tensor(n) = value {
            let name = self.name()?;
            self.found.push((name, self.pickle.tensor(n)));
            return Ok(());
        }
        if self.path.iter().any(|&(container, _)| same(container, value)) {
            return Err("one of its containers is inside itself: not a checkpoint of weights".into());
        }
        match self.children(value) {
            None => Ok(()),
            Some(Children::Items(items)) => items
                .iter()
                .enumerate()
                .try_for_each(|(n, &child)| self.step(value, Step::Number(n as i64), child)),
            Some(Children::Pairs(pairs)) => {
                let mut texts = HashSet::new();
                for &(key, child) in pairs {
                    let step = match key {
                        Value::Text(span) => Step::Key(span),
                        Value::Int(n) => Step::Number(n),
                        _ => Step::Unnamed,
                    };
                    if let Step::Key(span) = step
                        && !texts.insert(self.pickle.text(span))
                    {
                        let key = shown(self.pickle.text(span));
                        return Err(format!("a dictionary has the key `{key}` twice: save the file again"));
                    }
                    self.step(value, step, child)?;
                }
                Ok(())
            }
        }
    }

    fn step(&mut self, container: Value, step: Step, child: Value) -> Result<(), String> {
        self.path.push((container, step));
        let result = self.visit(child);
        self.path.pop();
        result
    }

    /// The present path as a name.
    fn name(&mut self) -> Result<String, String> {
        if self.found.len() == MAX_TENSORS {
            return Err(format!("holds more than {MAX_TENSORS} tensors: not a checkpoint of weights"));
        }
        let mut name = String::new();
        for (n, &(_, step)) in self.path.iter().enumerate() {
            if n > 0 {
                name.push('.');
            }
            match step {
                Step::Key(span) => {
                    let key = self.pickle.text(span);
                    if name.len() + key.len() > MAX_NAME {
                        return Err(format!(
                            "a tensor's name is longer than {MAX_NAME} bytes: `{}`",
                            shown(key)
                        ));
                    }
                    name += key;
                }
                Step::Number(number) => name += &number.to_string(),
                Step::Unnamed => {
                    return Err("holds a tensor under a key that is neither text nor a number".into());
                }
            }
        }
        self.named += name.len();
        if self.named > MAX_NAMES {
            return Err(format!(
                "its tensors' names have more than {MAX_NAMES} bytes: not a checkpoint of weights"
            ));
        }
        if name.is_empty() {
            return Err("holds one tensor without a name, expected a dictionary of weights".into());
        }
        Ok(name)
    }
}

/// The same container, not only an equal one.
fn same(a: Value, b: Value) -> bool {
    match (a, b) {
        (Value::List(a), Value::List(b))
        | (Value::Dict(a), Value::Dict(b))
        | (Value::Module(a), Value::Module(b)) => a == b,
        _ => false,
    }
}

/// The begin of a text from the file, without control characters.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}
