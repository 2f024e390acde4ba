//! A pickle machine that can do nothing but build containers and describe tensors.
//!
//! Python's pickle is a program for a stack machine that may call any function of any module. This one knows the
//! handful of globals that a checkpoint of weights needs ([`globals`]), describes what they would make, and refuses
//! every other by its name; nothing is ever called. Values live in flat tables and refer to each other by number, so
//! that neither nesting nor a list inside itself costs a recursion here; the sizes of all tables together are bounded.

mod globals;
mod objects;
mod values;

use values::slice;
pub(super) use values::{Pickle, Span, Tensor, Value};

use std::collections::HashMap;

/// Largest pickle: a state dict takes about 200 bytes for a tensor.
pub(super) const MAX_PICKLE: usize = 16 << 20;
/// Most values kept in containers and memo, of 16 bytes each; a tensor takes about 25.
const MAX_CELLS: usize = 1 << 19;
/// Most values on the stack, and most marks.
const MAX_STACK: usize = 1 << 18;
/// What a container of its own counts for.
const CONTAINER: usize = 4;

impl<'a> Pickle<'a> {
    /// Runs the program: its tables, and the value it ends with.
    pub(super) fn load(text: &'a [u8]) -> Result<(Self, Value), String> {
        let mut machine = Machine::new(text);
        match machine.run() {
            Ok(root) => Ok((machine.made, root)),
            Err(fault) => {
                let (what, remedy) = match fault {
                    Fault::Damaged(what) => (what, "The file is damaged: download it again"),
                    Fault::Refused(what) => (what, STATE_DICT),
                };
                Err(format!("byte {} of data.pkl: {what}. {remedy}", machine.opcode))
            }
        }
    }
}

/// Why a program is not run to its end.
enum Fault {
    /// It is no sound program.
    Damaged(String),
    /// It may be sound, but is more than weights need.
    Refused(String),
}

impl From<String> for Fault {
    fn from(what: String) -> Self {
        Fault::Damaged(what)
    }
}

impl From<&str> for Fault {
    fn from(what: &str) -> Self {
        Fault::Damaged(what.into())
    }
}

/// The stack machine.
struct Machine<'a> {
    made: Pickle<'a>,
    /// The next byte, and where the present opcode lies.
    at: usize,
    opcode: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    cells: usize,
}

impl<'a> Machine<'a> {
    fn new(text: &'a [u8]) -> Self {
        let made = Pickle { text, ..Pickle::default() };
        Machine { made, at: 0, opcode: 0, stack: vec![], marks: vec![], memo: HashMap::new(), cells: 0 }
    }

    /// The program's value. The opcodes are those of protocols 2 to 5 that a pickler writes for plain values.
    fn run(&mut self) -> Result<Value, Fault> {
        loop {
            self.opcode = self.at;
            let [code] = self.take()?;
            match code {
                0x80 => match self.take()? {
                    [2..=5] => {}
                    [other] => return Err(format!("pickle protocol {other}; 2 to 5 are read").into()),
                },
                // FRAME: the next so many bytes belong together.
                0x95 => {
                    let length = u64::from_le_bytes(self.take()?);
                    if length > (self.made.text.len() - self.at) as u64 {
                        return Err(
                            format!("announces a frame of {length} bytes, more than there are").into()
                        );
                    }
                }
                b'.' => return self.pop(),
                b'(' => {
                    bounded(self.marks.len(), MAX_STACK)?;
                    self.marks.push(self.stack.len());
                }
                b'0' => drop(self.pop()?),
                b'1' => drop(self.drain_group()?),
                b'2' => {
                    let top = *self.stack.last().ok_or(EMPTY)?;
                    self.push(top)?;
                }
                b'N' | 0x88 | 0x89 => self.push(Value::Plain)?,
                b'G' => {
                    let [..] = self.take::<8>()?;
                    self.push(Value::Plain)?;
                }
                b'J' => {
                    let n = i32::from_le_bytes(self.take()?);
                    self.push(Value::Int(n.into()))?;
                }
                b'K' => {
                    let [n] = self.take()?;
                    self.push(Value::Int(n.into()))?;
                }
                b'M' => {
                    let n = u16::from_le_bytes(self.take()?);
                    self.push(Value::Int(n.into()))?;
                }
                // LONG1, LONG4
                0x8a => {
                    let [n] = self.take()?;
                    self.long(n.into())?;
                }
                0x8b => {
                    let n = u32::from_le_bytes(self.take()?);
                    self.long(n.into())?;
                }
                // BINUNICODE, its short and long forms
                b'X' => {
                    let n = u32::from_le_bytes(self.take()?);
                    self.string(n.into(), true)?;
                }
                0x8c => {
                    let [n] = self.take()?;
                    self.string(n.into(), true)?;
                }
                0x8d => {
                    let n = u64::from_le_bytes(self.take()?);
                    self.string(n, true)?;
                }
                // Python 2's strings, which are texts where they can be
                b'U' => {
                    let [n] = self.take()?;
                    self.string(n.into(), false)?;
                }
                b'T' => {
                    let n = u32::from_le_bytes(self.take()?);
                    self.string(n.into(), false)?;
                }
                // BINBYTES, SHORT_BINBYTES, BINBYTES8, BYTEARRAY8
                b'B' => {
                    let n = u32::from_le_bytes(self.take()?);
                    self.bytes(n.into())?;
                }
                b'C' => {
                    let [n] = self.take()?;
                    self.bytes(n.into())?;
                }
                0x8e | 0x96 => {
                    let n = u64::from_le_bytes(self.take()?);
                    self.bytes(n)?;
                }
                b')' => self.tuple(0)?,
                b't' => {
                    let n = self.stack.len() - self.mark()?;
                    self.tuple(n)?;
                }
                0x85..=0x87 => self.tuple(usize::from(code - 0x84))?,
                b']' => {
                    let list = self.new_list(vec![])?;
                    self.push(list)?;
                }
                b'l' => {
                    let items: Vec<_> = self.drain_group()?.collect();
                    let list = self.new_list(items)?;
                    self.push(list)?;
                }
                b'a' => self.append(1)?,
                b'e' => {
                    let n = self.stack.len() - self.mark()?;
                    self.append(n)?;
                }
                b'}' => {
                    let dict = self.new_dict()?;
                    self.push(dict)?;
                }
                b's' => self.set_items(2)?,
                b'u' => {
                    let n = self.stack.len() - self.mark()?;
                    self.set_items(n)?;
                }
                b'd' => {
                    let n = self.stack.len() - self.mark()?;
                    let dict = self.new_dict()?;
                    self.stack.insert(self.stack.len() - n, dict);
                    self.set_items(n)?;
                }
                b'q' => {
                    let [n] = self.take()?;
                    self.memoize(n.into())?;
                }
                b'r' => {
                    let n = u32::from_le_bytes(self.take()?);
                    self.memoize(n)?;
                }
                0x94 => self.memoize(self.memo.len() as u32)?,
                b'h' => {
                    let [n] = self.take()?;
                    self.recall(n.into())?;
                }
                b'j' => {
                    let n = u32::from_le_bytes(self.take()?);
                    self.recall(n)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(module, name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Value::Text(module), Value::Text(name)) = (module, name) else {
                        return Err("the name of a global is not text".into());
                    };
                    self.global(self.made.text(module), self.made.text(name))?;
                }
                b'Q' => self.persistent()?,
                b'R' => self.reduce()?,
                0x81 => self.new_object()?,
                b'b' => self.build()?,
                other => {
                    return Err(Fault::Refused(format!(
                        "pickle opcode {other:#04x}, which no checkpoint of weights needs"
                    )));
                }
            }
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let bytes = self.made.text[self.at..].first_chunk().ok_or("ends too early")?;
        self.at += N;
        Ok(*bytes)
    }

    /// The next `length` bytes.
    fn run_of(&mut self, length: u64) -> Result<Span, Fault> {
        if length > (self.made.text.len() - self.at) as u64 {
            return Err(format!("announces {length} bytes, more than there are").into());
        }
        let span = Span { at: self.at as u32, len: length as u32 };
        self.at += length as usize;
        Ok(span)
    }

    /// The text up to the next end of line.
    fn line(&mut self) -> Result<&'a str, Fault> {
        let rest = &self.made.text[self.at..];
        // No name of a module is longer.
        let length = rest.iter().take(1024).position(|&byte| byte == b'\n').ok_or("a name without an end")?;
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).map_err(|_| "a name is not UTF-8".into())
    }

    fn push(&mut self, value: Value) -> Result<(), Fault> {
        bounded(self.stack.len(), MAX_STACK)?;
        self.stack.push(value);
        Ok(())
    }

    /// Takes the top value; what lies below a mark is out of reach.
    fn pop(&mut self) -> Result<Value, Fault> {
        self.within(1)?;
        self.stack.pop().ok_or_else(|| EMPTY.into())
    }

    fn within(&self, count: usize) -> Result<(), Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() < floor + count { Err(EMPTY.into()) } else { Ok(()) }
    }

    fn mark(&mut self) -> Result<usize, Fault> {
        self.marks.pop().ok_or_else(|| "the end of a group without its begin".into())
    }

    fn drain_group(&mut self) -> Result<std::vec::Drain<'_, Value>, Fault> {
        let mark = self.mark()?;
        Ok(self.stack.drain(mark..))
    }

    fn charge(&mut self, cells: usize) -> Result<(), Fault> {
        self.cells += cells;
        if self.cells > MAX_CELLS {
            return Err(Fault::Refused(format!(
                "more than {MAX_CELLS} values, which no checkpoint of weights needs"
            )));
        }
        Ok(())
    }

    fn long(&mut self, length: u64) -> Result<(), Fault> {
        let span = self.run_of(length)?;
        let bytes = slice(self.made.text, span);
        let value = if bytes.len() <= 8 {
            let negative = bytes.last().is_some_and(|&high| high >= 0x80);
            let mut wide = [if negative { 0xff } else { 0 }; 8];
            wide[..bytes.len()].copy_from_slice(bytes);
            Value::Int(i64::from_le_bytes(wide))
        } else {
            // Larger than any size: of no use for a tensor.
            Value::Plain
        };
        self.push(value)
    }

    fn string(&mut self, length: u64, unicode: bool) -> Result<(), Fault> {
        let span = self.run_of(length)?;
        match std::str::from_utf8(slice(self.made.text, span)) {
            Ok(_) => self.push(Value::Text(span)),
            Err(_) if unicode => Err("a text is not UTF-8".into()),
            Err(_) => self.push(Value::Plain),
        }
    }

    fn bytes(&mut self, length: u64) -> Result<(), Fault> {
        self.run_of(length)?;
        self.push(Value::Plain)
    }

    fn tuple(&mut self, count: usize) -> Result<(), Fault> {
        self.within(count)?;
        self.charge(count)?;
        let at = self.made.items.len() as u32;
        let start = self.stack.len() - count;
        self.made.items.extend(self.stack.drain(start..));
        self.push(Value::Tuple(Span { at, len: count as u32 }))
    }

    fn new_list(&mut self, items: Vec<Value>) -> Result<Value, Fault> {
        self.charge(CONTAINER + items.len())?;
        self.made.lists.push(items);
        Ok(Value::List(self.made.lists.len() as u32 - 1))
    }

    fn new_dict(&mut self) -> Result<Value, Fault> {
        self.charge(CONTAINER)?;
        self.made.dicts.push(Vec::new());
        Ok(Value::Dict(self.made.dicts.len() as u32 - 1))
    }

    /// The top `count` values go to the list below them.
    fn append(&mut self, count: usize) -> Result<(), Fault> {
        self.within(count + 1)?;
        self.charge(count)?;
        let start = self.stack.len() - count;
        let Value::List(n) = self.stack[start - 1] else { return Err("appends to what is no list".into()) };
        self.made.lists[n as usize].extend(self.stack.drain(start..));
        Ok(())
    }

    /// The top `count` values are keys and values of the dictionary below them.
    fn set_items(&mut self, count: usize) -> Result<(), Fault> {
        self.within(count + 1)?;
        self.charge(count)?;
        let start = self.stack.len() - count;
        let Value::Dict(n) = self.stack[start - 1] else {
            return Err("sets items of what is no dictionary".into());
        };
        let (pairs, []) = self.stack[start..].as_chunks() else {
            return Err("a key without its value".into());
        };
        self.made.dicts[n as usize].extend(pairs.iter().map(|&[key, value]| (key, value)));
        self.stack.truncate(start);
        Ok(())
    }

    fn memoize(&mut self, number: u32) -> Result<(), Fault> {
        self.within(1)?;
        self.charge(2)?;
        self.memo.insert(number, self.stack[self.stack.len() - 1]);
        Ok(())
    }

    fn recall(&mut self, number: u32) -> Result<(), Fault> {
        let value = *self.memo.get(&number).ok_or_else(|| format!("memo {number} was never set"))?;
        self.push(value)
    }
}

const EMPTY: &str = "takes a value where there is none";
const NOT_OURS: &str = "of a form that torch.save does not write for tensors";
const STATE_DICT: &str = "If you trust where it came from, load it in PyTorch and save its state dict alone: \
     torch.save(model.state_dict(), …)";

fn bounded(count: usize, most: usize) -> Result<(), Fault> {
    if count < most {
        Ok(())
    } else {
        Err(Fault::Refused(format!("more than {most} values wait on the stack")))
    }
}
