//! The nearest right name for a wrong one, and wrong names for tests.

use serde_yaml::{Mapping, Value};

use super::overlay::key_text;

/// The longest name that is compared: what is longer isn't a slip of the finger.
const LONGEST: usize = 64;
/// So many accepted names are listed in an error.
const LISTED: usize = 15;

/// How far apart two names are (Damerau-Levenshtein), if that is near enough to propose one for the other: one slip for
/// every three letters, at least one. Case, `-` and `_` don't count.
fn distance(wrong: &str, name: &str) -> Option<usize> {
    let plain = |text: &str| text.to_lowercase().replace(['-', ' '], "_");
    let (wrong, name) = (plain(wrong), plain(name));
    let (short, long) =
        (wrong.chars().count().min(name.chars().count()), wrong.chars().count().max(name.chars().count()));
    if long > LONGEST {
        return None;
    }
    let apart = strsim::damerau_levenshtein(&wrong, &name);
    let abbreviated = short >= 3 && (wrong.starts_with(&name) || name.starts_with(&wrong));
    (apart <= (long / 3).max(1) && apart < long || abbreviated).then_some(apart)
}

/// The nearest of `names`, the first one where several are as near; none where all are far.
pub(super) fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = names.into_iter().filter_map(|name| Some((distance(wrong, name)?, name)));
    near.min_by_key(|(apart, _)| *apart).map(|(_, name)| name)
}

/// `, did you mean 'from'?`, or nothing.
pub(super) fn proposal(wrong: &str, names: &[String]) -> String {
    nearest(wrong, names.iter().map(String::as_str)).map_or(String::new(), |name| format!(", did you mean '{name}'"))
}

/// Names in the order that they were declared in, shortened where there are many.
pub(super) fn listing(names: &[String]) -> String {
    match names.len().checked_sub(LISTED) {
        Some(more) if more > 1 => format!("{} and {more} more", names[..LISTED].join(", ")),
        _ => names.join(", "),
    }
}

/// One misspelt key of a recipe, see [`misspellings`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misspelling {
    /// Path of the mapping that holds the key; list entries by their number.
    pub path: Vec<String>,
    /// The misspelt key.
    pub wrong: String,
    /// The key as it should be, which is also the nearest one.
    pub right: String,
}

impl Misspelling {
    /// A copy of the tree with the key misspelt, in its place.
    #[must_use]
    pub fn put_in(&self, tree: &Value) -> Value {
        let mut copy = tree.clone();
        let holder = self.path.iter().try_fold(&mut copy, |value, key| match value {
            Value::Mapping(mapping) => mapping.iter_mut().find(|(k, _)| key_text(k) == *key).map(|(_, v)| v),
            Value::Sequence(list) => list.get_mut(key.parse::<usize>().ok()?),
            _ => None,
        });
        if let Some(Value::Mapping(mapping)) = holder {
            *mapping = mapping
                .iter()
                .map(|(key, value)| {
                    let wrong = key.as_str() == Some(self.right.as_str());
                    (if wrong { Value::from(self.wrong.as_str()) } else { key.clone() }, value.clone())
                })
                .collect();
        }
        copy
    }
}

/// For tests: every key at every depth of a resolved recipe with a misspelling of it (two letters swapped, one dropped
/// or one doubled, in turn) whose nearest key in that mapping is the right one. A test then checks that each is refused
/// and that the right key is proposed. Keys that users choose (names of stages) are among them.
#[must_use]
pub fn misspellings(tree: &Value) -> Vec<Misspelling> {
    let mut found = Vec::new();
    misspell(tree, &mut Vec::new(), &mut found);
    found
}

fn misspell(value: &Value, path: &mut Vec<String>, found: &mut Vec<Misspelling>) {
    let mut descend = |key: String, value: &Value, found: &mut Vec<Misspelling>| {
        path.push(key);
        misspell(value, path, found);
        path.pop();
    };
    match value {
        Value::Mapping(mapping) => {
            for (key, value) in mapping {
                descend(key_text(key), value, found);
            }
            for right in mapping.keys().filter_map(Value::as_str) {
                if let Some(wrong) = slip(right, mapping, found.len()) {
                    found.push(Misspelling { path: path.clone(), wrong, right: right.to_owned() });
                }
            }
        }
        Value::Sequence(list) => {
            for (index, value) in list.iter().enumerate() {
                descend(index.to_string(), value, found);
            }
        }
        _ => {}
    }
}

/// A misspelling that can only mean `right`; `turn` picks which sort is tried first.
fn slip(right: &str, siblings: &Mapping, turn: usize) -> Option<String> {
    let letters: Vec<char> = right.chars().collect();
    let spots = 0..letters.len();
    let swapped = spots.clone().skip(1).map(|i| {
        let mut word = letters.clone();
        word.swap(i - 1, i);
        word
    });
    let dropped = spots.clone().map(|i| [&letters[..i], &letters[i + 1..]].concat());
    let doubled = spots.map(|i| [&letters[..=i], &letters[i..]].concat());
    let mut sorts: [Vec<Vec<char>>; 3] = [swapped.collect(), dropped.collect(), doubled.collect()];
    sorts.rotate_left(turn % 3);
    let only_right = |word: &String| {
        let near = distance(word, right);
        let others = siblings.keys().filter_map(Value::as_str).filter(|key| *key != right);
        near.is_some_and(|near| near > 0 && others.filter_map(|key| distance(word, key)).all(|other| other > near))
    };
    sorts.into_iter().flatten().map(String::from_iter).find(|word| !word.is_empty() && only_right(word))
}
