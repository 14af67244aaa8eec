//! From the nodes of a pickle to tensors and plain values by name.

use serde_json::Value;

use super::heap::{Fault, Heap, Id, Node, View};
use crate::Named;

/// Limits on what a name leads through, so that lists which hold each other end.
const DEEPEST: usize = 12;
const MOST: usize = 200_000;
const LONGEST: usize = 500;

/// The pairs of a dictionary and of what it was made from.
fn pairs(heap: &Heap, id: Id) -> Vec<[Id; 2]> {
    let Some(Node::Dict { pairs, from, .. }) = heap.nodes.get(id) else { return Vec::new() };
    let mut all = match from.and_then(|from| heap.nodes.get(from)) {
        Some(Node::Dict { pairs, .. }) => pairs.clone(),
        Some(Node::List(items)) => {
            let pair = |id: &Id| match heap.nodes.get(*id) {
                Some(Node::Tuple(pair) | Node::List(pair)) if pair.len() == 2 => Some([pair[0], pair[1]]),
                _ => None,
            };
            items.iter().filter_map(pair).collect()
        }
        _ => Vec::new(),
    };
    all.extend(pairs);
    all
}

/// The value of a key.
pub(super) fn field(heap: &Heap, id: Id, key: &str) -> Option<Id> {
    pairs(heap, id).into_iter().find(|[name, _]| heap.text(*name) == Some(key)).map(|[_, value]| value)
}

/// Tensors and plain values below `top`, keys joined by dots.
pub(super) fn walk(heap: &Heap, top: Id) -> Result<(Named<View>, Named<Value>), Fault> {
    let (mut tensors, mut facts) = (Named::new(), Named::new());
    let (mut open, mut seen) = (vec![(top, String::new(), 0)], 0);
    while let Some((id, name, depth)) = open.pop() {
        seen += 1;
        if seen > MOST || depth > DEEPEST || name.len() > LONGEST {
            return Err("its values are nested or named beyond all checkpoints".to_owned());
        }
        let inner = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
        match &heap.nodes[id] {
            Node::Tensor(view) => {
                let name = if name.is_empty() { "tensor".to_owned() } else { name };
                if tensors.insert(name.clone(), (**view).clone()).is_some() {
                    return Err(format!("has two tensors {name:?}"));
                }
            }
            Node::Dict { .. } => {
                let pairs = pairs(heap, id);
                seen += pairs.len();
                if open.len() + pairs.len() > MOST {
                    return Err("its values are nested or named beyond all checkpoints".to_owned());
                }
                for [key, value] in pairs {
                    match &heap.nodes[key] {
                        Node::Text(key) if key.len() <= LONGEST => open.push((value, inner(key), depth + 1)),
                        Node::Int(key) => open.push((value, inner(&key.to_string()), depth + 1)),
                        _ => {}
                    }
                }
            }
            Node::List(items) | Node::Tuple(items) => {
                if open.len() + items.len() > MOST {
                    return Err("its values are nested or named beyond all checkpoints".to_owned());
                }
                open.extend(items.iter().enumerate().map(|(at, item)| (*item, inner(&at.to_string()), depth + 1)));
            }
            Node::Bool(value) => drop(facts.insert(name, Value::from(*value))),
            Node::Int(value) => drop(facts.insert(name, Value::from(*value))),
            Node::Float(value) => drop(facts.insert(name, Value::from(*value))),
            Node::Text(text) if text.len() <= LONGEST => drop(facts.insert(name, Value::from(text.as_str()))),
            Node::Text(_) | Node::None | Node::Big(_) | Node::Global(_) | Node::Storage(_) | Node::Opaque => {}
        }
    }
    Ok((tensors, facts))
}
