//! What a pickle builds: flat nodes, storages, views.

use tch::Kind;

use super::globals::Global;

/// A node's place among [`Heap::nodes`]. Nodes lie flat, so that neither depth nor a circle costs anything.
pub(super) type Id = usize;

/// One value.
#[derive(Debug)]
pub(super) enum Node {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// A whole number beyond 64 bits, its bytes.
    Big(Vec<u8>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// A dictionary, or an object with its attributes; `from` are further pairs, kept where they are.
    Dict {
        pairs: Vec<[Id; 2]>,
        from: Option<Id>,
        record: bool,
    },
    Global(Global),
    Storage(usize),
    Tensor(Box<View>),
    /// Something that is known and not looked at.
    Opaque,
}

/// The numbers behind tensors, as the pickle tells of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    pub key: String,
    pub kind: Kind,
    /// Numbers in the file.
    pub count: u64,
    /// The part that views see: start and length, in numbers.
    pub part: [u64; 2],
}

/// A tensor's view of a storage, in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub storage: usize,
    pub offset: u64,
    pub shape: Vec<u64>,
    pub stride: Vec<u64>,
}

/// Everything that was built.
#[derive(Debug, Default)]
pub(super) struct Heap {
    pub nodes: Vec<Node>,
    pub storages: Vec<Storage>,
}

/// Limits far above any checkpoint, so that a small file can't fill the memory.
const MOST_NODES: usize = 1_000_000;
const MOST_SIDES: usize = 16;
const LONGEST_KEY: usize = 100;

/// Why the reading ended.
pub(super) type Fault = String;

impl Heap {
    pub(super) fn put(&mut self, node: Node) -> Result<Id, Fault> {
        if self.nodes.len() >= MOST_NODES {
            return Err(format!("its pickle holds more than {MOST_NODES} values, which no checkpoint does"));
        }
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    fn int(&self, id: Id) -> Option<u64> {
        match self.nodes.get(id)? {
            Node::Int(int) => u64::try_from(*int).ok(),
            _ => None,
        }
    }

    fn ints(&self, id: Id) -> Option<Vec<u64>> {
        match self.nodes.get(id)? {
            Node::Tuple(ids) | Node::List(ids) if ids.len() <= MOST_SIDES => {
                ids.iter().map(|id| self.int(*id)).collect()
            }
            _ => None,
        }
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.nodes.get(id)? {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// `('storage', type, key, location, count[, (view key, offset, length)])`.
    pub(super) fn storage(&mut self, id: Id) -> Result<Node, Fault> {
        let found = || -> Option<Storage> {
            let Node::Tuple(parts) = self.nodes.get(id)? else { return None };
            let [word, class, key, _, count, view @ ..] = parts.as_slice() else { return None };
            let Node::Global(Global::Storage(kind)) = self.nodes.get(*class)? else { return None };
            let key = self.text(*key).filter(|key| key.len() <= LONGEST_KEY)?.to_owned();
            let count = self.int(*count)?;
            let part = match view.first().and_then(|view| self.nodes.get(*view)) {
                Some(Node::Tuple(view)) => {
                    let [_, offset, length] = view.as_slice() else { return None };
                    [self.int(*offset)?, self.int(*length)?]
                }
                None | Some(Node::None) => [0, count],
                Some(_) => return None,
            };
            let inside = part[0].checked_add(part[1]).is_some_and(|end| end <= count);
            (self.text(*word) == Some("storage") && inside).then_some(Storage { key, kind: *kind, count, part })
        };
        let storage = found().ok_or("its pickle names a storage in a way that PyTorch doesn't")?;
        self.storages.push(storage);
        Ok(Node::Storage(self.storages.len() - 1))
    }

    /// `(storage, offset, shape, stride, ..)`.
    fn tensor(&self, parts: &[Id]) -> Option<Node> {
        let [storage, offset, shape, stride, ..] = parts else { return None };
        let Node::Storage(storage) = self.nodes.get(*storage)? else { return None };
        let (shape, stride) = (self.ints(*shape)?, self.ints(*stride)?);
        let view = View { storage: *storage, offset: self.int(*offset)?, shape, stride };
        (view.shape.len() == view.stride.len()).then(|| Node::Tensor(Box::new(view)))
    }

    /// What a call would make of its arguments, without the call.
    pub(super) fn made(&mut self, what: Id, arguments: Id) -> Result<Node, Fault> {
        let parts = match self.nodes.get(arguments) {
            Some(Node::Tuple(parts)) if parts.len() <= MOST_SIDES => parts.clone(),
            _ => return Err("its pickle calls something without a short list of arguments".to_owned()),
        };
        let Some(Node::Global(global)) = self.nodes.get(what) else {
            return Err("its pickle calls something that is no name".to_owned());
        };
        let empty = |record, from| Node::Dict { pairs: Vec::new(), from, record };
        let unknown = || "its pickle makes a tensor in a way that PyTorch doesn't".to_owned();
        match global {
            Global::Tensor => self.tensor(&parts).ok_or_else(unknown),
            Global::Parameter => match parts.first().and_then(|id| self.nodes.get(*id)) {
                Some(Node::Tensor(view)) => Ok(Node::Tensor(view.clone())),
                _ => Err(unknown()),
            },
            Global::Dict => Ok(empty(false, parts.first().copied())),
            Global::Record => Ok(empty(true, None)),
            Global::Reconstructor => match parts.first().and_then(|id| self.nodes.get(*id)) {
                Some(Node::Global(Global::Dict)) => Ok(empty(false, parts.get(2).copied())),
                Some(Node::Global(Global::Record)) => Ok(empty(true, None)),
                _ => Ok(Node::Opaque),
            },
            Global::Storage(_) | Global::Opaque => Ok(Node::Opaque),
        }
    }
}
