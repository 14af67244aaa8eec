//! Where a key stands in a YAML text: the text is walked again along the key's path and the walk fails at the key on
//! purpose, because the parser tells line and column only with an error.

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_yaml::Value;

use super::overlay::{child, key_text};
use super::read::MERGE;

/// Line and column, from 1, of the key (or list entry) at `path` in `text`; `raw` is the text's tree before merge keys
/// were resolved. None where the text doesn't have it, or for the empty path.
pub(super) fn position(text: &str, raw: &Value, path: &[String]) -> Option<(usize, usize)> {
    let steps = written(raw, path)?;
    let walk = Walk { steps: &steps };
    let found = walk.deserialize(serde_yaml::Deserializer::from_str(text)).err()?.location()?;
    (!steps.is_empty()).then(|| (found.line(), found.column()))
}

/// Line and column of a document's first value.
pub(super) fn start(document: serde_yaml::Deserializer) -> Option<(usize, usize)> {
    let found = Walk { steps: &[] }.deserialize(document).err()?.location()?;
    Some((found.line(), found.column()))
}

/// The path as it is written in the text: through `<<` where a key came from a merged mapping.
fn written(raw: &Value, path: &[String]) -> Option<Vec<String>> {
    let mut steps = Vec::new();
    let mut value = raw;
    for key in path {
        let (next, through) = find(value, key)?;
        steps.extend(through);
        value = next;
    }
    Some(steps)
}

fn find<'a>(value: &'a Value, key: &str) -> Option<(&'a Value, Vec<String>)> {
    if let Some(found) = child(value, key) {
        return Some((found, vec![key.to_owned()]));
    }
    let merged = child(value, MERGE)?;
    let entries: Vec<(Vec<String>, &Value)> = match merged {
        Value::Sequence(list) => {
            list.iter().enumerate().map(|(i, entry)| (vec![MERGE.to_owned(), i.to_string()], entry)).collect()
        }
        _ => vec![(vec![MERGE.to_owned()], merged)],
    };
    entries.into_iter().filter(|(_, entry)| entry.is_mapping()).find_map(|(mut start, entry)| {
        let (found, through) = find(entry, key)?;
        start.extend(through);
        Some((found, start))
    })
}

/// Goes along `steps` and fails at the last one; succeeds where there is no such path.
struct Walk<'a> {
    steps: &'a [String],
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("the way to a key")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((first, rest)) = self.steps.split_first() else { return Err(A::Error::custom("here")) };
        while let Some(found) = map.next_key_seed(Key { wanted: first, last: rest.is_empty() })? {
            if found {
                map.next_value_seed(Walk { steps: rest })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some((first, rest)) = self.steps.split_first() else { return Err(A::Error::custom("here")) };
        for _ in 0..first.parse::<usize>().unwrap_or(0) {
            if list.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        list.next_element_seed(Walk { steps: rest })?;
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Err(E::custom("here"))
    }
    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Err(E::custom("here"))
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Err(E::custom("here"))
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Err(E::custom("here"))
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Err(E::custom("here"))
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Err(E::custom("here"))
    }
}

/// Whether a key is the wanted one; the last of the path fails, which gives its own place and not its value's.
struct Key<'a> {
    wanted: &'a str,
    last: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("a key")
    }
    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        match (key == self.wanted, self.last) {
            (true, true) => Err(E::custom("here")),
            (found, _) => Ok(found),
        }
    }
    fn visit_bool<E: Error>(self, key: bool) -> Result<bool, E> {
        self.visit_str(&key_text(&key.into()))
    }
    fn visit_i64<E: Error>(self, key: i64) -> Result<bool, E> {
        self.visit_str(&key_text(&key.into()))
    }
    fn visit_u64<E: Error>(self, key: u64) -> Result<bool, E> {
        self.visit_str(&key_text(&key.into()))
    }
    fn visit_f64<E: Error>(self, key: f64) -> Result<bool, E> {
        self.visit_str(&key_text(&key.into()))
    }
}
