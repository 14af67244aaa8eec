//! serde's errors in plain words, and key paths that survive a part's own read.

use serde_path_to_error::Segment;
use serde_yaml::Value;

use super::ReadError;
use super::nearest::{listing, proposal};

/// A failed read inside a part hands its key path to the read around it within the error's text, as
/// `START key BETWEEN key END text`. Recipes hold no control characters in keys, so this can't be mistaken.
const START: char = '\u{1}';
const BETWEEN: char = '\u{1f}';
const END: char = '\u{2}';
/// The longest piece of a recipe that an error repeats, in characters.
const QUOTED: usize = 60;

/// What serde said, and the key path below the value that was read.
pub(super) struct Fault {
    pub(super) path: Vec<String>,
    pub(super) text: String,
}

impl Fault {
    pub(super) fn new(error: &serde_path_to_error::Error<serde_yaml::Error>) -> Self {
        // A value's own name, as of an enum, is no key.
        let path = error.path().iter().filter_map(|segment| match segment {
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Map { key } => Some(key.clone()),
            Segment::Enum { .. } | Segment::Unknown => None,
        });
        Self::decode(&error.inner().to_string()).below(path)
    }

    pub(super) fn decode(text: &str) -> Self {
        match text.strip_prefix(START).and_then(|coded| coded.split_once(END)) {
            Some((path, text)) => {
                let path = path.split(BETWEEN).filter(|key| !key.is_empty()).map(str::to_owned).collect();
                Self { path, text: text.to_owned() }
            }
            None => Self { path: Vec::new(), text: text.to_owned() },
        }
    }

    /// The error that carries this fault outwards.
    pub(super) fn into_error(self) -> ReadError {
        serde::de::Error::custom(format_args!("{START}{}{END}{}", self.path.join(&BETWEEN.to_string()), self.text))
    }

    pub(super) fn below(mut self, outer: impl IntoIterator<Item = String>) -> Self {
        self.path.splice(0..0, outer);
        self
    }

    /// A part's struct doesn't know of the `kind` beside its keys: names it among what an unknown key's error accepts.
    pub(super) fn with_kind(mut self) -> Self {
        if self.path.len() <= 1
            && let Some(name) = self.text.strip_prefix("unknown field `")
            && let Some((name, names)) = unknown(name)
        {
            let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            self.text = format!(
                "unknown field `{name}`, expected one of {}",
                [vec!["`kind`".into()], names].concat().join(", ")
            );
        }
        self
    }

    /// Whether a key is missing, which has no place of its own.
    pub(super) fn is_missing(&self) -> bool {
        self.text.starts_with("missing field `")
    }

    /// The line for people; `value` is what stands at the path.
    pub(super) fn words(&self, value: Option<&Value>) -> String {
        let text = self.text.as_str();
        let name = dotted(&self.path);
        if let Some((wrong, names)) = text.strip_prefix("unknown field `").and_then(unknown) {
            let parent = owner(self.path.get(..self.path.len().saturating_sub(1)).unwrap_or_default());
            let takes =
                if names.is_empty() { "It takes no keys".into() } else { format!("It takes {}", listing(&names)) };
            return format!("{parent} has no key '{}'{}", cut(wrong), tail(&proposal(wrong, &names), &takes));
        }
        if let Some((wrong, names)) = text.strip_prefix("unknown variant `").and_then(unknown) {
            let there =
                if names.is_empty() { "There are none".into() } else { format!("There are {}", listing(&names)) };
            return format!("{name}: there is no '{}'{}", cut(wrong), tail(&proposal(wrong, &names), &there));
        }
        if let Some((key, names)) = text.strip_prefix("missing field `").and_then(|rest| rest.split_once('`')) {
            let names = quoted(names);
            let there = if names.is_empty() { String::new() } else { format!(". There are {}", listing(&names)) };
            let empty = if value.is_some_and(Value::is_null) { " (it is empty)" } else { "" };
            return format!("{}{empty} lacks the key '{key}'{there}", owner(&self.path));
        }
        for sort in ["invalid type: ", "invalid value: ", "invalid length "] {
            if let Some((found, expected)) = text.strip_prefix(sort).and_then(|rest| rest.rsplit_once(", expected ")) {
                return format!("{name}: {}", mismatch(sort, found, expected));
            }
        }
        format!("{name}: {}", cut(text.trim()))
    }
}

/// The words for a name that is none of `names`; `what` is what they name.
pub(super) fn stranger(what: &str, wrong: &str, names: &[String]) -> String {
    let there = if names.is_empty() { "There are none".into() } else { format!("There are {}", listing(names)) };
    format!("there is no {what} '{}'{}", cut(wrong), tail(&proposal(wrong, names), &there))
}

/// A key path as people write it.
pub(super) fn dotted(path: &[String]) -> String {
    owner(path)
}

fn owner(path: &[String]) -> String {
    if path.is_empty() { "the recipe".to_owned() } else { cut(&path.join(".")) }
}

fn tail(proposal: &str, names: &str) -> String {
    if proposal.is_empty() { format!(". {names}") } else { format!("{proposal}? {names}") }
}

/// At most [`QUOTED`] characters, no control character among them.
pub(super) fn cut(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    match text.char_indices().nth(QUOTED * 4) {
        Some((end, _)) => format!("{}...", text[..end].chars().map(printable).collect::<String>()),
        None => text.chars().map(printable).collect(),
    }
}

/// `wrong` and the accepted names of "wrong`, expected one of `a`, `b`"; a user's key may hold anything.
fn unknown(rest: &str) -> Option<(&str, Vec<String>)> {
    if let Some((wrong, names)) = rest.rsplit_once("`, expected ") {
        return Some((wrong, quoted(names)));
    }
    rest.rsplit_once("`, there are no ").map(|(wrong, _)| (wrong, Vec::new()))
}

fn quoted(names: &str) -> Vec<String> {
    names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn mismatch(sort: &str, found: &str, expected: &str) -> String {
    if sort == "invalid length " {
        let digits: String = expected.chars().filter(char::is_ascii_digit).collect();
        let wanted = if digits.is_empty() { "fewer".to_owned() } else { digits };
        return format!("expected {wanted} entries, found {found}");
    }
    let wanted = wanted(expected, sort == "invalid value: ");
    let inner = |name: &str| found.strip_prefix(name)?.strip_prefix('`')?.strip_suffix('`');
    let text = found.strip_prefix("string ").map(|text| text.trim_matches('"'));
    let whole = wanted.starts_with("a whole number");
    let (found, hint) = if let Some(text) = text {
        let shown =
            text.chars().take(QUOTED).collect::<String>() + if text.chars().count() > QUOTED { "..." } else { "" };
        let hint = if whole || wanted.starts_with("a number") { number_hint(text) } else { truth_hint(text, &wanted) };
        (format!("the text \"{shown}\""), hint)
    } else if let Some(number) = inner("integer ").or(inner("floating point ")) {
        let hint = match number.strip_suffix(".0") {
            Some(plain) if whole => format!("write {plain}"),
            _ if wanted == "text" => "put it in quotes".to_owned(),
            _ => String::new(),
        };
        (format!("the number {number}"), hint)
    } else if let Some(truth) = inner("boolean ") {
        (truth.to_owned(), if wanted == "text" { "put it in quotes".to_owned() } else { String::new() })
    } else {
        let plain = match found {
            "unit value" | "null" | "Option value" => "nothing (null)",
            "sequence" => "a list",
            "map" => "a mapping",
            other => other,
        };
        (plain.to_owned(), String::new())
    };
    let hint = if hint.is_empty() { hint } else { format!("; {hint}") };
    format!("expected {wanted}, found {found}{hint}")
}

/// What serde expected; `range`: the sort is right and the value isn't.
fn wanted(expected: &str, range: bool) -> String {
    let bounds = match expected {
        "u8" => Some((0, i64::from(u8::MAX))),
        "u16" => Some((0, i64::from(u16::MAX))),
        "u32" => Some((0, i64::from(u32::MAX))),
        "i8" => Some((i64::from(i8::MIN), i64::from(i8::MAX))),
        "i16" => Some((i64::from(i16::MIN), i64::from(i16::MAX))),
        "i32" => Some((i64::from(i32::MIN), i64::from(i32::MAX))),
        _ => None,
    };
    match (expected, bounds) {
        (_, Some((low, high))) if range => format!("a whole number from {low} to {high}"),
        ("u8" | "u16" | "u32" | "u64" | "u128" | "usize", _) => "a whole number (0 or more)".to_owned(),
        ("i8" | "i16" | "i32" | "i64" | "i128" | "isize", _) => "a whole number".to_owned(),
        ("f32" | "f64", _) => "a number".to_owned(),
        ("a boolean", _) => "true or false".to_owned(),
        ("a string" | "str" | "path string", _) => "text".to_owned(),
        ("a sequence", _) => "a list".to_owned(),
        ("a map", _) => "a mapping".to_owned(),
        ("a Value::Tagged enum", _) => "a name".to_owned(),
        (other, _) if other.starts_with("struct ") => "a mapping of keys".to_owned(),
        (other, _) if other.starts_with("a nonzero ") => "a whole number (1 or more)".to_owned(),
        (other, _) => {
            let size =
                ["an array of length ", "a tuple of size ", "tuple struct "].iter().find_map(|s| other.strip_prefix(s));
            size.map_or(other.to_owned(), |size| format!("a list of {size}"))
        }
    }
}

/// How a text that was meant as a number is written in YAML.
fn number_hint(text: &str) -> String {
    let bare = text.replace(['_', ' '], "");
    let zeroless = bare.trim_start_matches('0');
    let percent = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    let number = |text: &str| text.parse::<f64>().is_ok_and(f64::is_finite);
    if let Some(percent) = percent {
        format!("write {}", percent / 100.0)
    } else if bare != text && number(&bare) {
        format!("write {bare} (YAML numbers have no '_')")
    } else if bare.len() > 1 && bare.starts_with('0') && number(zeroless) && bare.bytes().all(|b| b.is_ascii_digit()) {
        format!("write {zeroless} (YAML numbers don't begin with 0)")
    } else if number(text) {
        "write it without quotes".to_owned()
    } else {
        match text.to_lowercase().as_str() {
            "inf" | "infinity" | "+inf" => "write .inf".to_owned(),
            "none" => "write null".to_owned(),
            _ => String::new(),
        }
    }
}

fn truth_hint(text: &str, wanted: &str) -> String {
    match text.to_lowercase().as_str() {
        "no" | "off" | "n" | "false" if wanted == "true or false" => "write false".to_owned(),
        "yes" | "on" | "y" | "true" if wanted == "true or false" => "write true".to_owned(),
        "none" => "write null".to_owned(),
        _ => String::new(),
    }
}
