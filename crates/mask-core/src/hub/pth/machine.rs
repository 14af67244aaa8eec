//! A stack machine for the part of Python's pickle language that checkpoints are written in. It builds nodes of its
//! own and executes nothing; an instruction or a name that it doesn't know ends the reading.

use super::globals::global;
use super::heap::{Fault, Heap, Id, Node};

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], Fault> {
        let end = usize::try_from(count).ok().and_then(|count| self.at.checked_add(count));
        let part = end.and_then(|end| self.bytes.get(self.at..end)).ok_or("its pickle is cut off")?;
        self.at += part.len();
        Ok(part)
    }

    fn number(&mut self, bytes: u64) -> Result<u64, Fault> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn line(&mut self) -> Result<&'a str, Fault> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().take(1000).position(|byte| *byte == b'\n').ok_or("its pickle is cut off")?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| "a name in its pickle is no text".to_owned())
    }
}

impl Heap {
    /// Reads one pickle from the beginning of `bytes`; gives its value and its length.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(Id, usize), Fault> {
        Machine { heap: self, cursor: Cursor { bytes, at: 0 }, stack: Vec::new(), marks: Vec::new(), memo: Vec::new() }
            .run()
    }
}

struct Machine<'a, 'h> {
    heap: &'h mut Heap,
    cursor: Cursor<'a>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: Vec<Option<Id>>,
}

impl Machine<'_, '_> {
    fn push(&mut self, node: Node) -> Result<(), Fault> {
        let id = self.heap.put(node)?;
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = if self.stack.len() > floor { self.stack.pop() } else { None };
        top.ok_or_else(|| "its pickle takes more from its stack than there is".to_owned())
    }

    fn top(&self) -> Result<Id, Fault> {
        self.stack.last().copied().ok_or_else(|| "its pickle looks at an empty stack".to_owned())
    }

    /// Everything above the last mark.
    fn marked(&mut self) -> Result<Vec<Id>, Fault> {
        let mark = self.marks.pop().ok_or("its pickle lacks a mark")?;
        if mark > self.stack.len() {
            return Err("its pickle took away a mark".to_owned());
        }
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, count: usize) -> Result<(), Fault> {
        let mut parts = Vec::with_capacity(count);
        for _ in 0..count {
            parts.push(self.pop()?);
        }
        parts.reverse();
        self.push(Node::Tuple(parts))
    }

    fn text(&mut self, length: u64) -> Result<(), Fault> {
        let bytes = self.cursor.take(length)?;
        self.push(Node::Text(String::from_utf8_lossy(bytes).into_owned()))
    }

    fn remember(&mut self, at: u64) -> Result<(), Fault> {
        let top = self.top()?;
        // Writers number them from 0; the bytes read so far are more than any of them needs.
        let at =
            usize::try_from(at).ok().filter(|at| *at <= self.cursor.at).ok_or("its pickle numbers values wildly")?;
        if at >= self.memo.len() {
            self.memo.resize(at + 1, None);
        }
        self.memo[at] = Some(top);
        Ok(())
    }

    fn recall(&mut self, at: u64) -> Result<(), Fault> {
        let id = usize::try_from(at).ok().and_then(|at| self.memo.get(at).copied().flatten());
        self.stack.push(id.ok_or("its pickle recalls a value that it never had")?);
        Ok(())
    }

    fn append(&mut self, items: Vec<Id>) -> Result<(), Fault> {
        let list = self.top()?;
        match self.heap.nodes.get_mut(list) {
            Some(Node::List(list)) => list.extend(items),
            Some(Node::Opaque) => {}
            _ => return Err("its pickle appends to what is no list".to_owned()),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Result<(), Fault> {
        if items.len() % 2 == 1 {
            return Err("its pickle has a key without a value".to_owned());
        }
        let dict = self.top()?;
        match self.heap.nodes.get_mut(dict) {
            Some(Node::Dict { pairs, .. }) => pairs.extend(items.chunks_exact(2).map(|pair| [pair[0], pair[1]])),
            Some(Node::Opaque) => {}
            _ => return Err("its pickle sets a key of what is no dictionary".to_owned()),
        }
        Ok(())
    }

    fn build(&mut self) -> Result<(), Fault> {
        let state = self.pop()?;
        let object = self.top()?;
        match self.heap.nodes.get_mut(object) {
            Some(Node::Dict { from, record: true, .. }) => *from = Some(state),
            // A state dict's attributes (its `_metadata`), and what isn't looked at.
            Some(Node::Dict { .. } | Node::Opaque | Node::Tensor(_)) => {}
            _ => return Err("its pickle gives a state to what takes none".to_owned()),
        }
        Ok(())
    }

    fn name(&mut self, module: &str, name: &str) -> Result<(), Fault> {
        let quoted = |text: &str| text.chars().take(80).filter(|c| !c.is_control()).collect::<String>();
        let found = global(module, name).ok_or_else(|| {
            format!(
                "its pickle names {}.{}, which is not read here; nothing was executed. Save the weights alone \
                 (torch.save(model.state_dict(), ..)) if you trust the file",
                quoted(module),
                quoted(name)
            )
        })?;
        self.push(Node::Global(found))
    }

    fn run(mut self) -> Result<(Id, usize), Fault> {
        loop {
            let op = self.cursor.take(1)?[0];
            match op {
                b'.' => return Ok((self.pop()?, self.cursor.at)),
                0x80 => {
                    let protocol = self.cursor.number(1)?;
                    if !(2..=5).contains(&protocol) {
                        return Err(format!("its pickle is of protocol {protocol}; 2 to 5 are read"));
                    }
                }
                0x95 => drop(self.cursor.take(8)?),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'N' => self.push(Node::None)?,
                0x88 => self.push(Node::Bool(true))?,
                0x89 => self.push(Node::Bool(false))?,
                b'K' => self.int(1)?,
                b'M' => self.int(2)?,
                b'J' => {
                    let int = self.cursor.number(4)? as u32 as i32;
                    self.push(Node::Int(int.into()))?;
                }
                0x8a => self.long(1)?,
                0x8b => self.long(4)?,
                b'G' => {
                    let bits = self.cursor.take(8)?.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
                    self.push(Node::Float(f64::from_bits(bits)))?;
                }
                b'X' | b'T' => {
                    let length = self.cursor.number(4)?;
                    self.text(length)?;
                }
                0x8c | b'U' => {
                    let length = self.cursor.number(1)?;
                    self.text(length)?;
                }
                0x8d => {
                    let length = self.cursor.number(8)?;
                    self.text(length)?;
                }
                b'C' | b'B' | 0x8e => {
                    let length = self.cursor.number(match op {
                        b'C' => 1,
                        b'B' => 4,
                        _ => 8,
                    })?;
                    self.cursor.take(length)?;
                    self.push(Node::Opaque)?;
                }
                b']' => self.push(Node::List(Vec::new()))?,
                b'}' => self.push(Node::Dict { pairs: Vec::new(), from: None, record: false })?,
                b')' => self.push(Node::Tuple(Vec::new()))?,
                0x8f => self.push(Node::Opaque)?,
                b't' => {
                    let parts = self.marked()?;
                    self.push(Node::Tuple(parts))?;
                }
                0x85 => self.tuple(1)?,
                0x86 => self.tuple(2)?,
                0x87 => self.tuple(3)?,
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' | 0x90 => {
                    let items = self.marked()?;
                    self.append(items)?;
                }
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.set(&[key, value])?;
                }
                b'u' => {
                    let items = self.marked()?;
                    self.set(&items)?;
                }
                b'q' => {
                    let at = self.cursor.number(1)?;
                    self.remember(at)?;
                }
                b'r' => {
                    let at = self.cursor.number(4)?;
                    self.remember(at)?;
                }
                0x94 => self.remember(self.memo.len() as u64)?,
                b'h' => {
                    let at = self.cursor.number(1)?;
                    self.recall(at)?;
                }
                b'j' => {
                    let at = self.cursor.number(4)?;
                    self.recall(at)?;
                }
                b'c' => {
                    let (module, name) = (self.cursor.line()?, self.cursor.line()?);
                    self.name(module, name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let texts = self.heap.text(module).zip(self.heap.text(name));
                    let (module, name) = texts.ok_or("a name in its pickle is no text")?;
                    let (module, name) = (module.to_owned(), name.to_owned());
                    self.name(&module, &name)?;
                }
                b'Q' => {
                    let id = self.pop()?;
                    let node = self.heap.storage(id)?;
                    self.push(node)?;
                }
                b'R' | 0x81 => {
                    let (arguments, what) = (self.pop()?, self.pop()?);
                    let node = self.heap.made(what, arguments)?;
                    self.push(node)?;
                }
                b'b' => self.build()?,
                other => return Err(format!("its pickle has the instruction 0x{other:02x}, which is not read here")),
            }
        }
    }

    fn int(&mut self, bytes: u64) -> Result<(), Fault> {
        let int = self.cursor.number(bytes)? as i64;
        self.push(Node::Int(int))
    }

    /// A whole number of any length, little end first, in two's complement.
    fn long(&mut self, bytes: u64) -> Result<(), Fault> {
        let length = self.cursor.number(bytes)?;
        let bytes = self.cursor.take(length)?;
        self.push(match bytes.len() {
            0 => Node::Int(0),
            1..=8 => {
                let fill = if bytes[bytes.len() - 1] & 0x80 == 0 { 0 } else { 0xff };
                let mut all = [fill; 8];
                all[..bytes.len()].copy_from_slice(bytes);
                Node::Int(i64::from_le_bytes(all))
            }
            _ => Node::Big(bytes.to_vec()),
        })
    }
}
