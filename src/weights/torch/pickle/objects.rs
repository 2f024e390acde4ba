//! What a program says of tensors, storages and modules.

use super::globals::{global, refusal};
use super::values::{Global, Span, Storage, Tensor, Value};
use super::{CONTAINER, Fault, Machine, NOT_OURS};

impl Machine<'_> {
    pub(super) fn global(&mut self, module: &str, name: &str) -> Result<(), Fault> {
        let value = global(module, name).ok_or_else(|| refusal(module, name))?;
        self.push(value)
    }

    /// `('storage', type, key, location, count)`
    pub(super) fn persistent(&mut self) -> Result<(), Fault> {
        let id = self.pop()?;
        let Value::Tuple(parts) = id else { return Err(format!("a persistent id {NOT_OURS}").into()) };
        let &[
            Value::Text(kind),
            Value::Global(Global::Storage(dtype)),
            Value::Text(key),
            _,
            Value::Int(count),
        ] = self.made.tuple(parts)
        else {
            return Err(format!("a persistent id {NOT_OURS}").into());
        };
        if self.made.text(kind) != "storage" {
            return Err(format!("a persistent id {NOT_OURS}").into());
        }
        self.charge(CONTAINER)?;
        self.made.storages.push(Storage { dtype, key, count });
        self.push(Value::Storage(self.made.storages.len() as u32 - 1))
    }

    pub(super) fn reduce(&mut self) -> Result<(), Fault> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let (Value::Global(function), Value::Tuple(span)) = (function, arguments) else {
            return Err("calls what is no function, or with what are no arguments".into());
        };
        let arguments = self.made.tuple(span);
        let value = match (function, arguments) {
            (Global::RebuildTensor { typed }, _) => self.tensor(typed, span)?,
            (Global::RebuildParameter, &[tensor @ Value::Tensor(_), ..])
            | (Global::Size, &[tensor @ Value::Tuple(_)])
            | (Global::Typed, &[tensor, ..]) => tensor,
            (Global::OrderedDict, []) => self.new_dict()?,
            // Python 2's form: a list of pairs.
            (Global::OrderedDict, &[Value::List(list)]) => self.pairs(list)?,
            (Global::Plain, _) => Value::Plain,
            (other, _) => return Err(format!("{other:?} with arguments {NOT_OURS}").into()),
        };
        self.push(value)
    }

    /// `storage, offset, shape, strides, requires_grad, hooks[, type][, metadata]`
    fn tensor(&mut self, typed: bool, arguments: Span) -> Result<Value, Fault> {
        let arguments = self.made.tuple(arguments);
        let &[
            Value::Storage(storage),
            Value::Int(offset),
            Value::Tuple(shape),
            Value::Tuple(strides),
            _,
            _,
            ref rest @ ..,
        ] = arguments
        else {
            return Err(format!("a tensor's arguments {NOT_OURS}").into());
        };
        let dtype = match rest {
            [Value::Dtype(dtype), ..] if typed => Some(*dtype),
            _ if typed => None,
            _ => self.made.storage(storage).dtype,
        };
        let dtype = dtype.ok_or("a tensor without an element type")?;
        self.charge(CONTAINER)?;
        self.made.tensors.push(Tensor { storage, dtype, offset, shape, strides });
        Ok(Value::Tensor(self.made.tensors.len() as u32 - 1))
    }

    fn pairs(&mut self, list: u32) -> Result<Value, Fault> {
        let count = self.made.list(list).len();
        self.charge(CONTAINER + 2 * count)?;
        let pair = |value: &Value| {
            let pair = match *value {
                Value::Tuple(span) => self.made.tuple(span),
                Value::List(n) => self.made.list(n),
                _ => &[],
            };
            <[Value; 2]>::try_from(pair)
                .map(|[key, value]| (key, value))
                .map_err(|_| "a dictionary not of pairs")
        };
        let dict = self.made.list(list).iter().map(pair).collect::<Result<Vec<_>, _>>()?;
        self.made.dicts.push(dict);
        Ok(Value::Dict(self.made.dicts.len() as u32 - 1))
    }

    pub(super) fn new_object(&mut self) -> Result<(), Fault> {
        let (_, class) = (self.pop()?, self.pop()?);
        match class {
            Value::Global(Global::Module) => {
                self.charge(CONTAINER)?;
                self.made.modules.push(None);
                self.push(Value::Module(self.made.modules.len() as u32 - 1))
            }
            Value::Global(Global::OrderedDict) => {
                let dict = self.new_dict()?;
                self.push(dict)
            }
            _ => Err(format!("a new object of a class {NOT_OURS}").into()),
        }
    }

    /// Sets an object's attributes.
    pub(super) fn build(&mut self) -> Result<(), Fault> {
        let state = self.pop()?;
        self.within(1)?;
        match self.stack[self.stack.len() - 1] {
            Value::Module(n) => self.made.modules[n as usize] = Some(state),
            // A state dict's `_metadata`: its modules' versions.
            Value::Dict(_) => {}
            _ => return Err("sets attributes of what has none".into()),
        }
        Ok(())
    }
}
