//! The tree of a recipe and the layers that it came from.

use std::path::{Path, PathBuf};

use serde::de::value::Error as MissingError;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use serde_yaml::{Mapping, Value};

use super::explain::{Fault, cut, dotted, stranger};
use super::overlay::{assign, at, child, key_text};
use super::{ReadError, locate, read};
use crate::{Error, Result};

/// The key that names the recipe underneath.
const BASE: &str = "base";
/// The longest chain of bases and the longest key path of a `--set`.
const LONGEST: usize = 32;

/// A recipe as one tree, with the texts that it came from; see the [module page](super).
#[derive(Clone, Debug)]
pub struct Tree {
    /// Lowest first.
    layers: Vec<Layer>,
    value: Value,
    /// A `--set` that the layers below it don't admit: place and problem.
    misfit: Option<(String, String)>,
    /// The path of this part in the whole, see [`Tree::inside`].
    inside: Vec<String>,
    /// A key of the root that is left out once all layers are overlaid.
    without: Option<String>,
}

#[derive(Clone, Debug)]
struct Layer {
    source: Source,
    /// Where the value goes: the root, but for `--set`.
    path: Vec<String>,
    /// Where the value stands in the source's own text.
    below: Vec<String>,
    value: Value,
}

#[derive(Clone, Debug)]
enum Source {
    /// `raw` is the text's tree before `<<` was resolved.
    File {
        label: String,
        text: String,
        raw: Value,
    },
    Set(String),
    Code(String),
}

impl Tree {
    /// Reads a recipe file and the chain of its bases; a `base` is named relative to the file that names it.
    ///
    /// # Errors
    /// A file that can't be read or isn't a YAML mapping, a base that isn't there or comes round again.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let mut tree = Self { layers: Vec::new(), value: Value::Null, misfit: None, inside: Vec::new(), without: None };
        let mut seen = Vec::new();
        let mut next = Some(path.as_ref().to_owned());
        while let Some(path) = next {
            next = tree.load_under(&path, &mut seen)?;
        }
        tree.resolve();
        Ok(tree)
    }

    /// Puts one file under the layers that there are, and returns its base.
    fn load_under(&mut self, path: &Path, seen: &mut Vec<PathBuf>) -> Result<Option<PathBuf>> {
        let label = path.display().to_string();
        let text = read::text_of(path)?;
        let place = |at: Option<(usize, usize)>| match at {
            Some((line, column)) => format!("{label}:{line}:{column}"),
            None => label.clone(),
        };
        let refuse = |at, problem: String| Error::Recipe { place: place(at), problem };
        let raw = read::parse_recipe(&text).map_err(|(at, problem)| refuse(at, problem))?;
        let mut value = read::merged(&raw).map_err(|path| {
            let problem = "'<<' takes a mapping or a list of mappings, as *name".to_owned();
            refuse(locate::position(&text, &raw, &path), problem)
        })?;
        let base = value.as_mapping_mut().and_then(|mapping| mapping.shift_remove(BASE));
        seen.push(path.canonicalize().unwrap_or_else(|_| path.to_owned()));
        let at = locate::position(&text, &raw, &[BASE.to_owned()]);
        let base = match base {
            None => None,
            Some(Value::String(name)) => {
                let base = path.parent().unwrap_or(Path::new("")).join(&name);
                if !base.is_file() {
                    let problem = if base.is_dir() { "is a folder" } else { "does not exist" };
                    return Err(refuse(at, format!("base: {} {problem}", base.display())));
                }
                if base.canonicalize().is_ok_and(|base| seen.contains(&base)) {
                    return Err(refuse(
                        at,
                        format!("base: {} comes round again: it is among its own bases", base.display()),
                    ));
                }
                if seen.len() >= LONGEST {
                    return Err(refuse(at, format!("base: more than {LONGEST} recipes stand on one another")));
                }
                Some(base)
            }
            Some(_) => return Err(refuse(at, "base: expected the path of a recipe".to_owned())),
        };
        self.layers.insert(0, Layer::whole(Source::File { label, text, raw }, value));
        Ok(base)
    }

    /// A tree made in code; `label` stands for the file in errors.
    #[must_use]
    pub fn from_value(value: Value, label: impl Into<String>) -> Self {
        let layer = Layer::whole(Source::Code(label.into()), value);
        let mut tree =
            Self { layers: vec![layer], value: Value::Null, misfit: None, inside: Vec::new(), without: None };
        tree.resolve();
        tree
    }

    /// Puts defaults underneath all other layers.
    pub fn over(&mut self, defaults: Value) {
        let source = Source::Code("defaults".to_owned());
        self.layers.insert(0, Layer::whole(source, defaults));
        self.resolve();
    }

    /// Lays `key.path=value` over the tree, as `--set` does: the value is read as YAML, a number in the path picks an
    /// entry of a list. A mapping merges as everywhere.
    ///
    /// # Errors
    /// No `=`, an empty key, `base`, or a value that isn't YAML. Whether an entry of a list exists is told by the typed
    /// reads, since defaults may still be put underneath.
    pub fn set(&mut self, option: &str) -> Result<()> {
        let place = format!("--set {}", cut(option));
        let refuse = |problem: String| Error::Recipe { place: place.clone(), problem };
        let form = || refuse("expected key.path=value".to_owned());
        let (path, text) = option.split_once('=').ok_or_else(form)?;
        let path: Vec<String> = path.trim().split('.').map(|key| key.trim().to_owned()).collect();
        if path.iter().any(|key| key.is_empty() || key.chars().any(char::is_control)) {
            return Err(form());
        }
        if path.len() > LONGEST {
            return Err(refuse(format!("the key path has more than {LONGEST} keys")));
        }
        if path[0] == BASE {
            return Err(refuse("base can only stand in a recipe file".to_owned()));
        }
        let raw = read::parse(text).map_err(|(_, problem)| refuse(problem))?;
        let value = read::merged(&raw).map_err(|_| refuse("'<<' takes a mapping or a list of mappings".to_owned()))?;
        self.layers.push(Layer { source: Source::Set(place), path, below: Vec::new(), value });
        self.resolve();
        Ok(())
    }

    /// The part below a path as a tree of its own, for a recipe inside a recipe; `without` is a key of it that is left
    /// out. Errors name places and key paths of the whole.
    #[must_use]
    pub fn inside(&self, path: &[&str], without: Option<&str>) -> Self {
        let path: Vec<String> = path.iter().map(|key| (*key).to_owned()).collect();
        let cut = |layer: &Layer| -> Option<Layer> {
            let mut part = layer.clone();
            if let Some(rest) = layer.path.strip_prefix(path.as_slice()) {
                part.path = rest.to_vec();
            } else {
                let rest = path.strip_prefix(layer.path.as_slice())?;
                part.value = at(&layer.value, rest)?.clone();
                part.below.extend_from_slice(rest);
                part.path.clear();
            }
            Some(part)
        };
        let inside = [self.inside.as_slice(), &path].concat();
        let layers = self.layers.iter().filter_map(cut).collect();
        let mut part = Self { layers, value: Value::Null, misfit: None, inside, without: without.map(str::to_owned) };
        part.resolve();
        part
    }

    fn resolve(&mut self) {
        self.value = Value::Mapping(Mapping::new());
        self.misfit = None;
        for layer in &self.layers {
            if let Err(problem) = layer.lay_on(&mut self.value)
                && self.misfit.is_none()
            {
                self.misfit = Some((layer.place(&[]), problem));
            }
        }
        if let (Some(key), Value::Mapping(root)) = (&self.without, &mut self.value) {
            root.shift_remove(key);
        }
    }

    /// The whole tree.
    #[must_use]
    pub fn root(&self) -> &Value {
        &self.value
    }

    /// The value at a path; entries of a list by their number.
    #[must_use]
    pub fn value(&self, path: &[&str]) -> Option<&Value> {
        at(&self.value, path)
    }

    /// Reads the value at a path (the whole tree for an empty path) into a config struct. An `Option` may be missing.
    ///
    /// # Errors
    /// What doesn't fit the type, with its place in the sources, the nearest right name and what would be accepted.
    pub fn typed<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T> {
        if at(&self.value, path).is_none()
            && let Ok(nothing) = T::deserialize(Missing)
        {
            return self.fits().map(|()| nothing);
        }
        self.read(path, |value| {
            serde_path_to_error::deserialize(value).map_err(|error| Fault::new(&error).into_error())
        })
    }

    /// As [`Tree::typed`] by a function, such as the read of a method that was registered at run time (see
    /// [`kind_of`](super::kind_of) and [`typed_over`](super::typed_over)).
    ///
    /// # Errors
    /// What the function finds, with its place in the sources.
    pub fn read<T>(&self, path: &[&str], read: impl FnOnce(&Value) -> Result<T, ReadError>) -> Result<T> {
        self.fits()?;
        let outer = path.iter().map(|key| (*key).to_owned());
        let fault = match at(&self.value, path) {
            Some(value) => match read(value) {
                Ok(value) => return Ok(value),
                Err(error) => Fault::decode(&error.to_string()).below(outer),
            },
            None => {
                let there = (0..path.len()).take_while(|n| at(&self.value, &path[..*n]).is_some()).count();
                let parent = there.saturating_sub(1);
                let text = format!("missing field `{}`", path[parent]);
                Fault { path: outer.take(parent).collect(), text }
            }
        };
        let place = self.place_of(&fault.path, fault.is_missing());
        let value = at(&self.value, &fault.path);
        Err(Error::Recipe { place, problem: fault.below(self.inside.iter().cloned()).words(value) })
    }

    fn fits(&self) -> Result<()> {
        match &self.misfit {
            Some((place, problem)) => Err(Error::Recipe { place: place.clone(), problem: problem.clone() }),
            None => Ok(()),
        }
    }

    /// The error that the value at a dotted path can't be used, such as a ratio above 1.
    #[must_use]
    pub fn refuse(&self, path: &str, problem: impl std::fmt::Display) -> Error {
        let path: Vec<String> = path.split('.').filter(|key| !key.is_empty()).map(str::to_owned).collect();
        let whole = [self.inside.as_slice(), &path].concat();
        Error::Recipe { place: self.place_of(&path, false), problem: format!("{}: {problem}", dotted(&whole)) }
    }

    /// The error that the value at a dotted path names none of `names`, which are of the sort `what`.
    #[must_use]
    pub fn stranger(&self, path: &str, what: &str, wrong: &str, names: &[String]) -> Error {
        self.refuse(path, stranger(what, wrong, names))
    }

    /// Gives a part's [`Error::Value`] its place: the key that it names is looked for below `prefix` (dotted, may be
    /// empty), first exactly there, then wherever a path ends in it, then by its last keys alone; failing that the
    /// error is placed at `prefix`. Other errors pass unchanged.
    #[must_use]
    pub fn place(&self, error: Error, prefix: &str) -> Error {
        let Error::Value { what, problem } = error else { return error };
        let split = |path: &str| path.split('.').filter(|key| !key.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let (prefix, keys) = (split(prefix), split(&what));
        let exact = [prefix.as_slice(), &keys].concat();
        let found = if keys.is_empty() {
            None
        } else if at(&self.value, &exact).is_some() {
            Some(exact)
        } else {
            let mut paths = Vec::new();
            if let Some(below) = at(&self.value, &prefix) {
                all_paths(below, &mut prefix.clone(), &mut paths);
            }
            paths.sort_by_key(Vec::len);
            let ending = |keys: &[String]| paths.iter().find(|path| path[prefix.len()..].ends_with(keys)).cloned();
            // A part that is written as a bare number or a name has none of its keys.
            let whole = |upto: usize| Some([ending(&keys[..upto])?.as_slice(), &keys[upto..]].concat());
            let inner = || (1..keys.len()).find_map(|from| ending(&keys[from..]));
            (1..=keys.len()).rev().find_map(whole).or_else(inner)
        };
        match found {
            Some(path) => self.refuse(&path.join("."), problem),
            None => self.refuse(&prefix.join("."), format!("{what}: {problem}")),
        }
    }

    /// Where the key at a path stands, or the nearest mapping around it that does.
    fn place_of(&self, path: &[String], missing: bool) -> String {
        for length in (1..=path.len()).rev() {
            if let Some(layer) = self.origin(&path[..length], missing) {
                return layer.place(&path[..length]);
            }
        }
        let file = self.layers.iter().rev().find(|layer| matches!(layer.source, Source::File { .. }));
        file.or(self.layers.last()).map_or("recipe".to_owned(), |layer| layer.place(&[]))
    }

    /// The highest layer that wrote the key, not counting what was replaced later. Of a missing key's parent, a layer
    /// that only set another key in it counts least.
    fn origin(&self, path: &[String], missing: bool) -> Option<&Layer> {
        let mut tree = Value::Mapping(Mapping::new());
        let mut found = None;
        for layer in &self.layers {
            if layer.lay_on(&mut tree).is_err() {
                continue;
            }
            if at(&tree, path).is_none() {
                found = None;
            } else if layer.has(path) && !(missing && found.is_some() && layer.path.len() > path.len()) {
                found = Some(layer);
            }
        }
        found
    }
}

impl Layer {
    /// A layer over the root.
    fn whole(source: Source, value: Value) -> Self {
        Self { source, path: Vec::new(), below: Vec::new(), value }
    }

    fn lay_on(&self, tree: &mut Value) -> Result<(), String> {
        assign(tree, &self.path, self.value.clone())
    }

    fn has(&self, path: &[String]) -> bool {
        self.path.starts_with(path)
            || path.strip_prefix(self.path.as_slice()).is_some_and(|rest| at(&self.value, rest).is_some())
    }

    fn place(&self, path: &[String]) -> String {
        match &self.source {
            Source::File { label, text, raw } => match locate::position(text, raw, &[&self.below, path].concat()) {
                Some((line, column)) => format!("{label}:{line}:{column}"),
                None => label.clone(),
            },
            Source::Set(option) => option.clone(),
            Source::Code(label) => label.clone(),
        }
    }
}

fn all_paths(value: &Value, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    let keys: Vec<String> = match value {
        Value::Mapping(mapping) => mapping.keys().map(key_text).collect(),
        Value::Sequence(list) => (0..list.len()).map(|index| index.to_string()).collect(),
        _ => return,
    };
    for key in keys {
        let Some(below) = child(value, &key) else { continue };
        path.push(key);
        found.push(path.clone());
        all_paths(below, path, found);
        path.pop();
    }
}

/// Nothing at all, which only an `Option` takes.
struct Missing;

impl<'de> Deserializer<'de> for Missing {
    type Error = MissingError;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, MissingError> {
        Err(MissingError::custom("missing"))
    }
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, MissingError> {
        visitor.visit_none()
    }
    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
