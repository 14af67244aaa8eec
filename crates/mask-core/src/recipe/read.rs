//! YAML text to a tree, with every fault of the text as one line and its place.

use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_yaml::{Mapping, Value};

use super::locate;
use super::overlay::key_text;
use crate::{Error, Result};

/// The key that takes in other mappings.
pub(super) const MERGE: &str = "<<";
/// The largest recipe file in bytes, and the most values that it may hold once its aliases are written out; a text
/// counts once more for every [`TEXT`] bytes.
const LONGEST: u64 = 1 << 20;
const MOST: usize = 100_000;
const TEXT: usize = 64;
/// The deepest nesting in brackets that is handed to the parser, whose time grows with the square of it.
const DEEPEST: usize = 500;
const DEEP: &str = "this is nested too deeply";
const MANY: &str = "the aliases (*name) stand for too many values";
/// Goes before our own words in an error's text, so that they can be told from the parser's.
const OURS: char = '\u{1}';

/// What is wrong with a text, and the line and column where that is known.
pub(super) type Fault = (Option<(usize, usize)>, String);

/// The text of a recipe file.
pub(super) fn text_of(path: &Path) -> Result<String> {
    if path.is_dir() {
        return Err(Error::file(path, "this is a folder, not a recipe file"));
    }
    let file = File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::file(path, "there is no such recipe file"),
        _ => Error::io(path, "opening the recipe")(error),
    })?;
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(Error::io(path, "reading the recipe"))?;
    if bytes.len() as u64 > LONGEST {
        return Err(Error::file(path, format!("the file is larger than {LONGEST} bytes: this is not a recipe")));
    }
    let place = |line: usize| format!("{}:{line}", path.display());
    let text = String::from_utf8(bytes).map_err(|error| {
        let start = error.utf8_error().valid_up_to();
        let line = error.as_bytes().iter().take(start).filter(|byte| **byte == b'\n').count() + 1;
        let problem = format!("this is not UTF-8 text (byte {})", start + 1);
        Error::Recipe { place: place(line), problem }
    })?;
    if let Some(start) = text.find('\0') {
        let line = text[..start].matches('\n').count() + 1;
        let problem = format!("this is not a text file (byte {} is zero)", start + 1);
        return Err(Error::Recipe { place: place(line), problem });
    }
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// The tree of a YAML text, `<<` still in it.
pub(super) fn parse(text: &str) -> Result<Value, Fault> {
    guard_nesting(text)?;
    let left = Cell::new(MOST);
    Grow { left: &left }.deserialize(serde_yaml::Deserializer::from_str(text)).map_err(|error| fault(text, &error))
}

/// The same for a file, which must hold a mapping.
pub(super) fn parse_recipe(text: &str) -> Result<Value, Fault> {
    match parse(text)? {
        mapping @ Value::Mapping(_) => Ok(mapping),
        Value::Null => Err((None, "the recipe is empty: it needs at least one 'key: value'".to_owned())),
        Value::Sequence(_) => Err((Some((1, 1)), "a recipe is a mapping ('key: value'), this is a list".to_owned())),
        _ => Err((Some((1, 1)), "a recipe is a mapping ('key: value'), this is a single value".to_owned())),
    }
}

fn guard_nesting(text: &str) -> Result<(), Fault> {
    let mut depth = 0_usize;
    for (number, line) in text.lines().enumerate() {
        for character in line.chars() {
            match character {
                '[' | '{' => depth += 1,
                ']' | '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        if depth > DEEPEST {
            return Err((Some((number + 1, 1)), DEEP.to_owned()));
        }
    }
    Ok(())
}

/// One line about a parser's error.
fn fault(text: &str, error: &serde_yaml::Error) -> Fault {
    let place = error.location().map(|location| (location.line(), location.column()));
    let whole = error.to_string();
    if let Some((_, ours)) = whole.split_once(OURS) {
        return (place, ours.split(OURS).next().unwrap_or_default().to_owned());
    }
    if whole.contains("more than one document") {
        return (second_document(text), "a second document begins here (after '---'): a recipe is one".to_owned());
    }
    if whole.contains("repetition limit") {
        return (place, MANY.to_owned());
    }
    if whole.contains("recursion limit") {
        return (place, DEEP.to_owned());
    }
    if whole.contains("unknown anchor") {
        return (place, "this alias (*name) has no anchor (&name) above it".to_owned());
    }
    let indented = place.and_then(|(line, _)| text.lines().nth(line - 1));
    if indented.is_some_and(|line| line[..line.len() - line.trim_start().len()].contains('\t')) {
        return (place, "the line is indented with a tab: YAML wants spaces".to_owned());
    }
    // The first " at line ..." repeats the place; a second one says where the enclosing mapping or quote began.
    let words = match whole.split_once(" at line ") {
        Some((before, after)) => format!("{before}{}", after.find(',').map_or("", |comma| &after[comma..])),
        None => whole,
    };
    (place, format!("this is not valid YAML: {words}"))
}

/// Where the second document's first value stands.
fn second_document(text: &str) -> Option<(usize, usize)> {
    locate::start(serde_yaml::Deserializer::from_str(text).nth(1)?)
}

/// Resolves `<<` as YAML 1.1 says: a mapping's own keys win, then the earlier of several merged mappings. The error is
/// the path of a `<<` that has something else than mappings.
pub(super) fn merged(raw: &Value) -> Result<Value, Vec<String>> {
    let within = |key: String| {
        move |mut path: Vec<String>| {
            path.insert(0, key);
            path
        }
    };
    match raw {
        Value::Mapping(mapping) => {
            let mut own = Mapping::with_capacity(mapping.len());
            for (key, value) in mapping.iter().filter(|(key, _)| key.as_str() != Some(MERGE)) {
                own.insert(key.clone(), merged(value).map_err(within(key_text(key)))?);
            }
            let entries = match mapping.get(MERGE) {
                None => vec![],
                Some(Value::Sequence(list)) => list.iter().collect(),
                Some(other) => vec![other],
            };
            for entry in entries {
                let Value::Mapping(taken) = merged(entry).map_err(within(MERGE.to_owned()))? else {
                    return Err(vec![MERGE.to_owned()]);
                };
                for (key, value) in taken {
                    own.entry(key).or_insert(value);
                }
            }
            Ok(Value::Mapping(own))
        }
        Value::Sequence(list) => {
            let entries =
                list.iter().enumerate().map(|(index, value)| merged(value).map_err(within(index.to_string())));
            Ok(Value::Sequence(entries.collect::<Result<_, _>>()?))
        }
        other => Ok(other.clone()),
    }
}

/// Builds a value; `left` is how many more the whole text may hold.
#[derive(Clone, Copy)]
struct Grow<'a> {
    left: &'a Cell<usize>,
}

fn ours<E: serde::de::Error>(words: impl std::fmt::Display) -> E {
    E::custom(format_args!("{OURS}{words}{OURS}"))
}

impl<'de> DeserializeSeed<'de> for Grow<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Grow<'_> {
    fn one<E: serde::de::Error>(self, value: impl Into<Value>) -> Result<Value, E> {
        let value = value.into();
        let size = 1 + value.as_str().map_or(0, |text| text.len() / TEXT);
        self.left.set(self.left.get().checked_sub(size).ok_or_else(|| ours(MANY))?);
        Ok(value)
    }
}

impl<'de> Visitor<'de> for Grow<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("a value")
    }
    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        self.one(value)
    }
    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.one(value)
    }
    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.one(value)
    }
    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Value, E> {
        Err(ours(format_args!("the whole number {value} is too large")))
    }
    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Value, E> {
        Err(ours(format_args!("the whole number {value} is too large")))
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        self.one(value)
    }
    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.one(value)
    }
    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        self.one(Value::Null)
    }
    fn visit_none<E: serde::de::Error>(self) -> Result<Value, E> {
        self.one(Value::Null)
    }
    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(ours("recipes have no YAML tags (!name): choose a part with 'kind: name'"))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self)? {
            values.push(value);
        }
        self.one(values)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Mapping::new();
        while let Some(key) = map.next_key_seed(NewKey { below: &values })? {
            let value = map.next_value_seed(self)?;
            values.insert(key, value);
        }
        self.one(values)
    }
}

/// A key that may stand where it stands: text or a number, and for the first time.
struct NewKey<'a> {
    below: &'a Mapping,
}

impl NewKey<'_> {
    fn admit<E: serde::de::Error>(self, key: Value) -> Result<Value, E> {
        let name = key_text(&key);
        if name.chars().any(char::is_control) {
            return Err(ours(format_args!("the key {name:?} holds a control character")));
        }
        if self.below.contains_key(&key) {
            return Err(ours(format_args!("the key '{name}' stands twice in the same mapping")));
        }
        Ok(key)
    }
}

impl<'de> DeserializeSeed<'de> for NewKey<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NewKey<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("a key")
    }
    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Value, E> {
        self.admit(key.into())
    }
    fn visit_bool<E: serde::de::Error>(self, key: bool) -> Result<Value, E> {
        self.admit(key.into())
    }
    fn visit_i64<E: serde::de::Error>(self, key: i64) -> Result<Value, E> {
        self.admit(key.into())
    }
    fn visit_u64<E: serde::de::Error>(self, key: u64) -> Result<Value, E> {
        self.admit(key.into())
    }
    fn visit_f64<E: serde::de::Error>(self, key: f64) -> Result<Value, E> {
        self.admit(key.into())
    }
    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        Err(ours("a key is missing before ':'"))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Err(A::Error::custom(format_args!("{OURS}a key must be text, this is a list{OURS}")))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Err(A::Error::custom(format_args!("{OURS}a key must be text, this is a mapping{OURS}")))
    }
}
