//! The overlay of two trees, and what else is done to trees as values.

use serde_yaml::{Mapping, Value};

/// The key that picks a part's type.
pub(super) const KIND: &str = "kind";

/// A part of a recipe as a tree.
///
/// # Errors
/// A value that YAML can't hold: a defect of the part.
pub fn to_value(part: &impl serde::Serialize) -> crate::Result<Value> {
    serde_yaml::to_value(part).map_err(|error| crate::Error::Defect(error.to_string()))
}

/// Lays `upper` over `lower`: mappings merge key by key and anything else replaces. Where both are mappings and their
/// `kind` differs, the upper replaces the lower. A lower text under a mapping without `kind` counts as `kind: text`, so
/// that `mask: block` below `mask: { ratio: 0.6 }` means a block mask.
pub fn overlay(lower: &mut Value, upper: Value) {
    let Value::Mapping(upper) = upper else {
        *lower = upper;
        return;
    };
    if let (Value::String(kind), None) = (&*lower, upper.get(KIND)) {
        *lower = Value::Mapping(Mapping::from_iter([(Value::from(KIND), Value::from(kind.as_str()))]));
    }
    let Value::Mapping(below) = lower else {
        *lower = Value::Mapping(upper);
        return;
    };
    if let (Some(old), Some(new)) = (below.get(KIND), upper.get(KIND))
        && old != new
    {
        *below = upper;
        return;
    }
    for (key, value) in upper {
        match below.get_mut(&key) {
            Some(slot) => overlay(slot, value),
            None => {
                below.insert(key, value);
            }
        }
    }
}

/// As [`overlay`], at a path; a number in the path picks an entry where the tree holds a list.
pub(super) fn assign(lower: &mut Value, path: &[String], upper: Value) -> Result<(), String> {
    let Some((key, rest)) = path.split_first() else {
        overlay(lower, upper);
        return Ok(());
    };
    if let Value::Sequence(list) = lower {
        let length = list.len();
        return match key.parse::<usize>().ok().map(|index| list.get_mut(index)) {
            Some(Some(entry)) => assign(entry, rest, upper),
            Some(None) => Err(format!("there is no entry {key}: the list has {length}, counted from 0")),
            None => Err(format!("'{key}' names an entry of a list, where a number (from 0) is needed")),
        };
    }
    let existing = if let Value::Mapping(below) = lower { below.get_mut(key) } else { None };
    if rest.is_empty() || existing.is_none() {
        // Through `overlay`, so that a changed `kind` replaces the mapping around it.
        let nested = rest.iter().rev().fold(upper, |inner, key| single(key, inner));
        overlay(lower, single(key, nested));
        return Ok(());
    }
    existing.map_or(Ok(()), |slot| assign(slot, rest, upper))
}

fn single(key: &str, value: Value) -> Value {
    Value::Mapping(Mapping::from_iter([(Value::from(key), value)]))
}

/// The value at a path; list entries by their number.
pub(super) fn at<'a, S: AsRef<str>>(tree: &'a Value, path: &[S]) -> Option<&'a Value> {
    path.iter().try_fold(tree, |value, key| child(value, key.as_ref()))
}

pub(super) fn child<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Mapping(mapping) => match mapping.get(key) {
            Some(found) => Some(found),
            // Keys are rarely anything but text: numbers, at most.
            None => mapping.iter().find(|(other, _)| !other.is_string() && key_text(other) == key).map(|(_, v)| v),
        },
        Value::Sequence(list) => list.get(key.parse::<usize>().ok()?),
        _ => None,
    }
}

/// A key as it stands in key paths.
pub(super) fn key_text(key: &Value) -> String {
    match key {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        _ => "?".to_owned(),
    }
}

/// The dotted keys in which two resolved recipes differ, in the order of `a`, then those that only `b` has.
/// ```text
/// differences({train: {steps: 10, clip: 1}}, {train: {steps: 20}}) = ["train.steps", "train.clip"]
/// ```
#[must_use]
pub fn differences(a: &Value, b: &Value) -> Vec<String> {
    let mut found = Vec::new();
    differ("", a, b, &mut found);
    found
}

fn differ(path: &str, a: &Value, b: &Value, found: &mut Vec<String>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (a, b) {
        (Value::Mapping(left), Value::Mapping(right)) => {
            for (key, value) in left {
                let name = below(&key_text(key));
                match right.get(key) {
                    Some(other) => differ(&name, value, other, found),
                    None => found.push(name),
                }
            }
            found.extend(right.keys().filter(|key| !left.contains_key(*key)).map(|key| below(&key_text(key))));
        }
        (Value::Sequence(left), Value::Sequence(right)) if left.len() == right.len() => {
            for (index, (value, other)) in left.iter().zip(right).enumerate() {
                differ(&below(&index.to_string()), value, other, found);
            }
        }
        _ if a != b => found.push(if path.is_empty() { ".".to_owned() } else { path.to_owned() }),
        _ => {}
    }
}

/// The YAML text of a resolved recipe; reading it gives the same tree.
#[must_use]
pub fn to_yaml(tree: &Value) -> String {
    // Only YAML tags can't be written, and neither recipes nor config structs have any.
    serde_yaml::to_string(tree).unwrap_or_else(|error| format!("# this recipe can't be written: {error}\n"))
}
