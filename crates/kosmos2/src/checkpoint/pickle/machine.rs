//! The part of Python's pickle protocol 2 that torch uses for tensors.
//!
//! A pickle is a program for a stack machine. This machine executes no calls: it recognizes those that construct
//! tensors and ordered dictionaries, and records their arguments. Values are small and are copied, tuples are ranges of
//! one list, and no value contains another, so that memory and time are linear in the pickle's size, whatever its
//! nesting.

use std::collections::HashMap;
use std::ops::Range;

/// Maximum dimensions of a tensor, more than any weight has.
const MAX_DIMENSIONS: usize = 8;

/// A tensor as a pickle describes it. Offset and strides are in elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TensorDescription<'a> {
    /// Torch's class of the storage, such as `FloatStorage`.
    pub(super) class: &'a str,
    /// The storage's name in the archive.
    pub(super) key: &'a str,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// The tensors of a pickled dictionary by name, in the file's order. Other values are ignored.
///
/// # Errors
/// What is wrong with the pickle, as a clause about the file.
pub(super) fn tensors(pickle: &[u8]) -> Result<Vec<(&str, TensorDescription<'_>)>, String> {
    let mut machine = Machine::new(pickle);
    let result = loop {
        match machine.step() {
            Ok(None) => {}
            Ok(Some(result)) => break result,
            Err(reason) => {
                let at = pickle.len() - machine.rest.len();
                return Err(format!("its list of tensors is damaged before byte {at}: {reason}"));
            }
        }
    };
    let Value::Dict(dict) = result else {
        return Err("it has no dictionary of tensors".to_owned());
    };
    let mut found = HashMap::new();
    for (count, (name, value)) in machine.dicts[dict].iter().enumerate() {
        if let (Value::Text(name), Value::Tensor(tensor)) = (name, value)
            && found.insert(*name, (count, *tensor)).is_some()
        {
            return Err(format!("it names {} twice", shortened(name)));
        }
    }
    let mut found: Vec<_> = found.into_iter().map(|(name, (count, tensor))| (count, name, tensor)).collect();
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, name, tensor)| (name, machine.tensors[tensor].clone())).collect())
}

#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Number(i64),
    Text(&'a str),
    /// A module and a name in it, separated by a line feed.
    Global(&'a str),
    /// A range of the machine's `items`.
    Tuple(u32, u32),
    Dict(usize),
    Storage(usize),
    Tensor(usize),
    /// Any value that cannot be part of a tensor.
    Other,
}

struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Value<'a>>,
    /// The length of the stack at each mark.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    items: Vec<Value<'a>>,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    /// Class and key of each storage.
    storages: Vec<(&'a str, &'a str)>,
    tensors: Vec<TensorDescription<'a>>,
}

type Step<T> = Result<T, &'static str>;

impl<'a> Machine<'a> {
    fn new(pickle: &'a [u8]) -> Self {
        Self {
            rest: pickle,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            items: Vec::new(),
            dicts: Vec::new(),
            storages: Vec::new(),
            tensors: Vec::new(),
        }
    }

    /// Executes one operation. Returns the pickle's value after the last one.
    fn step(&mut self) -> Step<Option<Value<'a>>> {
        match self.byte()? {
            b'.' => return self.pop().map(Some),
            // The protocol version.
            0x80 => drop(self.byte()?),
            b'(' => self.marks.push(self.stack.len()),
            b'N' | 0x88 | 0x89 | b']' => self.push(Value::Other),
            b'G' => {
                self.take(8)?;
                self.push(Value::Other);
            }
            b'K' => self.push_number(1, false)?,
            b'M' => self.push_number(2, false)?,
            b'J' => self.push_number(4, true)?,
            0x8a => {
                let length = self.byte()?;
                self.push_number(length.into(), true)?;
            }
            b'X' => {
                let length = self.unsigned(4)?;
                let text = std::str::from_utf8(self.take(length as usize)?).map_err(|_| "a text is not UTF-8")?;
                self.push(Value::Text(text));
            }
            b'c' => {
                let global = self.lines()?;
                self.push(Value::Global(global));
            }
            b')' => self.push(Value::Tuple(0, 0)),
            0x85 => self.tuple_of_last(1)?,
            0x86 => self.tuple_of_last(2)?,
            0x87 => self.tuple_of_last(3)?,
            b't' => {
                let start = self.mark()?;
                self.tuple_from(start)?;
            }
            b'}' => self.push_dict(Vec::new()),
            b'd' => {
                let pairs = self.pairs()?;
                self.push_dict(pairs);
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.dict()?.push((key, value));
            }
            b'u' => {
                let pairs = self.pairs()?;
                self.dict()?.extend(pairs);
            }
            b'a' => drop(self.pop()?),
            b'e' => {
                let start = self.mark()?;
                self.stack.truncate(start);
            }
            // The state of an object, which has no tensors.
            b'b' => drop(self.pop()?),
            0x81 => {
                self.pop()?;
                self.pop()?;
                self.push(Value::Other);
            }
            b'R' => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                let made = self.call(callable, arguments)?;
                self.push(made);
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(storage);
            }
            b'q' => self.put(1)?,
            b'r' => self.put(4)?,
            b'h' => self.get(1)?,
            b'j' => self.get(4)?,
            _ => return Err("an operation is not one that torch writes"),
        }
        Ok(None)
    }

    /// The value that a call would construct. A parameter or an instance of a tensor subclass is the tensor that it
    /// wraps.
    fn call(&mut self, callable: Value<'a>, arguments: Value<'a>) -> Step<Value<'a>> {
        let Value::Global(name) = callable else { return Ok(Value::Other) };
        let arguments = self.items_of(arguments).ok_or("a call has no arguments")?;
        match (name, &self.items[arguments.clone()]) {
            ("collections\nOrderedDict", _) => {
                self.dicts.push(Vec::new());
                Ok(Value::Dict(self.dicts.len() - 1))
            }
            ("torch._utils\n_rebuild_tensor_v2", _) => self.tensor(arguments),
            ("torch._utils\n_rebuild_parameter" | "torch._utils\n_rebuild_parameter_with_state", &[inner, ..]) => {
                Ok(inner)
            }
            (
                "torch._tensor\n_rebuild_from_type_v2",
                &[Value::Global("torch._utils\n_rebuild_tensor_v2"), _, inner @ Value::Tuple(..), ..],
            ) => match self.items_of(inner) {
                Some(arguments) => self.tensor(arguments),
                None => Ok(Value::Other),
            },
            _ => Ok(Value::Other),
        }
    }

    /// Records a tensor from the arguments storage, offset, shape and strides. The others concern training.
    fn tensor(&mut self, arguments: Range<usize>) -> Step<Value<'a>> {
        let &[Value::Storage(storage), Value::Number(offset), shape, strides, ..] = &self.items[arguments] else {
            return Err("a tensor is not made of a storage, an offset, a shape and strides");
        };
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        if shape.len() != strides.len() {
            return Err("a tensor does not have as many strides as dimensions");
        }
        let offset = usize::try_from(offset).map_err(|_| "a tensor begins before its storage")?;
        let (class, key) = self.storages[storage];
        self.tensors.push(TensorDescription { class, key, offset, shape, strides });
        Ok(Value::Tensor(self.tensors.len() - 1))
    }

    fn sizes(&self, value: Value<'a>) -> Step<Vec<usize>> {
        let items = self.items_of(value).ok_or("a tensor's shape or strides are not a tuple")?;
        if items.len() > MAX_DIMENSIONS {
            return Err("a tensor has more dimensions than any weight");
        }
        let size = |item: &Value<'a>| match *item {
            Value::Number(size) => usize::try_from(size).ok(),
            _ => None,
        };
        self.items[items]
            .iter()
            .map(size)
            .collect::<Option<_>>()
            .ok_or("a size or stride is not a number of at least 0")
    }

    /// Records a storage from the tuple `("storage", class, key, device, elements)`.
    fn storage(&mut self, id: Value<'a>) -> Step<Value<'a>> {
        let items = self.items_of(id).map(|items| &self.items[items]);
        let Some(&[Value::Text("storage"), Value::Global(class), Value::Text(key), ..]) = items else {
            return Err("a storage is not described as torch describes them");
        };
        let class = class.rsplit('\n').next().unwrap_or(class);
        self.storages.push((class, key));
        Ok(Value::Storage(self.storages.len() - 1))
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(value);
    }

    /// Pops the topmost value, unless it is below the last mark.
    fn pop(&mut self) -> Step<Value<'a>> {
        if self.stack.len() <= self.marks.last().copied().unwrap_or(0) {
            return Err("an operation lacks a value");
        }
        self.stack.pop().ok_or("an operation lacks a value")
    }

    /// Removes the last mark and returns the stack's length at it.
    fn mark(&mut self) -> Step<usize> {
        self.marks.pop().ok_or("an operation lacks a mark")
    }

    fn tuple_of_last(&mut self, count: usize) -> Step<()> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count).filter(|start| *start >= floor) {
            Some(start) => self.tuple_from(start),
            None => Err("an operation lacks a value"),
        }
    }

    fn tuple_from(&mut self, start: usize) -> Step<()> {
        let first = self.items.len();
        self.items.extend(self.stack.drain(start..));
        let narrow = |number| u32::try_from(number).map_err(|_| "there are too many values");
        self.push(Value::Tuple(narrow(first)?, narrow(self.items.len())?));
        Ok(())
    }

    fn items_of(&self, value: Value<'a>) -> Option<Range<usize>> {
        match value {
            Value::Tuple(start, end) => Some(start as usize..end as usize),
            _ => None,
        }
    }

    fn pairs(&mut self) -> Step<Vec<(Value<'a>, Value<'a>)>> {
        let start = self.mark()?;
        let values: Vec<_> = self.stack.drain(start..).collect();
        let (pairs, rest) = values.as_chunks::<2>();
        if !rest.is_empty() {
            return Err("a key has no value");
        }
        Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
    }

    fn push_dict(&mut self, pairs: Vec<(Value<'a>, Value<'a>)>) {
        self.dicts.push(pairs);
        self.push(Value::Dict(self.dicts.len() - 1));
    }

    fn dict(&mut self) -> Step<&mut Vec<(Value<'a>, Value<'a>)>> {
        match self.stack.last() {
            Some(&Value::Dict(dict)) if self.stack.len() > self.marks.last().copied().unwrap_or(0) => {
                Ok(&mut self.dicts[dict])
            }
            _ => Err("there is no dictionary for entries"),
        }
    }

    fn put(&mut self, length: usize) -> Step<()> {
        let key = self.unsigned(length)?;
        let value = *self.stack.last().ok_or("an operation lacks a value")?;
        self.memo.insert(key, value);
        Ok(())
    }

    fn get(&mut self, length: usize) -> Step<()> {
        let key = self.unsigned(length)?;
        let value = *self.memo.get(&key).ok_or("a memoized value does not exist")?;
        self.push(value);
        Ok(())
    }

    fn byte(&mut self) -> Step<u8> {
        Ok(self.take(1)?[0])
    }

    fn take(&mut self, count: usize) -> Step<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("it ends too early")?;
        self.rest = rest;
        Ok(taken)
    }

    /// Reads two lines and returns them with the first line feed.
    fn lines(&mut self) -> Step<&'a str> {
        let mut ends = self.rest.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
        let (_, second) = (ends.next(), ends.next().ok_or("it ends too early")?);
        let lines = std::str::from_utf8(self.take(second)?).map_err(|_| "a name is not UTF-8")?;
        self.take(1)?;
        Ok(lines)
    }

    fn unsigned(&mut self, length: usize) -> Step<u32> {
        Ok(self.take(length)?.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    /// Pushes a little-endian number. Numbers of more than eight bytes cannot be part of a tensor.
    fn push_number(&mut self, length: usize, signed: bool) -> Step<()> {
        let bytes = self.take(length)?;
        let number = bytes.iter().rev().fold(0i64, |number, byte| number << 8 | i64::from(*byte));
        self.push(match length {
            1..=8 if signed => {
                let unused = 64 - 8 * length as u32;
                Value::Number(number << unused >> unused)
            }
            0..=8 => Value::Number(number),
            _ => Value::Other,
        });
        Ok(())
    }
}

fn shortened(name: &str) -> &str {
    &name[..name.floor_char_boundary(200)]
}
