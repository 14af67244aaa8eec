//! Parts chosen by `kind`: the register of a sort of part, as an enum of their config structs.

use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde::ser::{Error as _, Serializer};
use serde::{Deserialize, Serialize};
use serde_yaml::{Mapping, Value};

use super::ReadError;
use super::explain::Fault;
use super::nearest::nearest;
use super::overlay::{KIND, key_text, overlay};

/// The register of a sort of part: an enum with one variant a kind, each with its config struct.
///
/// In a recipe a part is a mapping with `kind` (at any place in it) and those of the kind's keys that differ from the
/// struct's `Default`, or just the kind's name; with `number: kind.key` at the end of the list a bare number stands for
/// that kind with that key. Written out, the `kind` comes first and every key follows.
///
/// Made are the enum with `Clone` and `Debug`, `Serialize`, `Deserialize`, `Default` (the first kind with its
/// defaults), `KINDS` (each kind with the first line of its doc comment, for help and documentation) and `kind()`. More
/// can be derived by attribute, as here `PartialEq`. The structs derive `Serialize`, `Deserialize`, `Clone`, `Debug`,
/// derive or implement `Default`, and carry `#[serde(deny_unknown_fields)]`; one without keys is `struct S {}`.
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// /// Keys of a uniform mask.
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
/// #[serde(deny_unknown_fields)]
/// pub struct UniformConfig {
///     /// Share hidden.
///     pub ratio: f64,
/// }
/// impl Default for UniformConfig {
///     fn default() -> Self {
///         Self { ratio: 0.75 }
///     }
/// }
///
/// mask_core::tagged! {
///     /// Which tokens are hidden.
///     #[derive(PartialEq)]
///     pub enum SamplerConfig {
///         /// Every token alike.
///         uniform => Uniform(UniformConfig),
///     }
///     number: uniform.ratio
/// }
///
/// let half = SamplerConfig::Uniform(UniformConfig { ratio: 0.5 });
/// let mut tree = mask_core::recipe::Tree::from_value(Default::default(), "an example");
/// tree.set("mask={ratio: 0.5, kind: uniform}")?;
/// assert_eq!(tree.typed::<SamplerConfig>(&["mask"])?, half);
/// tree.set("mask=0.5")?;
/// assert_eq!(tree.typed::<SamplerConfig>(&["mask"])?, half);
/// tree.set("mask=uniform")?;
/// assert_eq!(tree.typed::<SamplerConfig>(&["mask"])?, SamplerConfig::default());
/// assert_eq!(SamplerConfig::KINDS, [("uniform", "Every token alike.")]);
/// # Ok::<(), mask_core::Error>(())
/// ```
#[macro_export]
macro_rules! tagged {
    (
        $(#[$attribute:meta])*
        $vis:vis enum $name:ident {
            $( $(#[doc = $doc:literal])* $kind:ident => $variant:ident($config:ty) ),+ $(,)?
        }
        $(number: $number_kind:ident . $number_key:ident)?
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Debug)]
        #[allow(clippy::large_enum_variant, reason = "keys are read once, and few of them")]
        $vis enum $name {
            $( $(#[doc = $doc])* $variant($config), )+
        }

        impl $name {
            /// Every kind as recipes name it, with the first line of its description.
            $vis const KINDS: &'static [(&'static str, &'static str)] =
                &[$( (stringify!($kind), $crate::recipe::first_line(&[$($doc),*])) ),+];

            /// The kind as recipes name it.
            #[must_use]
            $vis const fn kind(&self) -> &'static str {
                match self {
                    $( Self::$variant(_) => stringify!($kind), )+
                }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                $crate::tagged!(@first $($variant)+)
            }
        }

        impl $crate::recipe::serde::Serialize for $name {
            fn serialize<S: $crate::recipe::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    $( Self::$variant(config) => $crate::recipe::write_part(self.kind(), config, serializer), )+
                }
            }
        }

        impl<'de> $crate::recipe::serde::Deserialize<'de> for $name {
            fn deserialize<D: $crate::recipe::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                const NUMBER: &[(&str, &str)] = &[$((stringify!($number_kind), stringify!($number_key)))?];
                let part = $crate::recipe::Part::read(deserializer, Self::KINDS, NUMBER)?;
                $( if part.is(stringify!($kind)) {
                    return part.typed::<$config, D::Error>().map(Self::$variant);
                } )+
                Err(part.stray())
            }
        }
    };
    (@first $first:ident $($rest:ident)*) => { Self::$first(Default::default()) };
}

/// The first line of a doc comment, for [`tagged!`](crate::tagged).
#[doc(hidden)]
#[must_use]
pub const fn first_line(doc: &[&'static str]) -> &'static str {
    match doc {
        [first, ..] => first.trim_ascii(),
        [] => "",
    }
}

/// A part's value with its kind known, for [`tagged!`](crate::tagged).
#[doc(hidden)]
pub struct Part {
    kind: String,
    value: Value,
}

impl Part {
    #[doc(hidden)]
    pub fn read<'de, D: Deserializer<'de>>(
        deserializer: D,
        kinds: &[(&str, &str)],
        number: &[(&str, &str)],
    ) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if let (Value::Number(_), [(kind, key)]) = (&value, number) {
            let value = Value::Mapping(Mapping::from_iter([(Value::from(*key), value)]));
            return Ok(Self { kind: (*kind).to_owned(), value });
        }
        let kinds: Vec<&str> = kinds.iter().map(|(kind, _)| *kind).collect();
        let kind = kind_of(&value, &kinds).map_err(D::Error::custom)?.to_owned();
        Ok(Self { kind, value })
    }

    #[doc(hidden)]
    #[must_use]
    pub fn is(&self, kind: &str) -> bool {
        self.kind == kind
    }

    #[doc(hidden)]
    pub fn typed<T: Serialize + Default + DeserializeOwned, E: serde::de::Error>(&self) -> Result<T, E> {
        typed_over(&self.value).map_err(E::custom)
    }

    /// What can't happen: `read` admits only the kinds of the list.
    #[doc(hidden)]
    pub fn stray<E: serde::de::Error>(&self) -> E {
        E::custom(format_args!("the kind {} has no type", self.kind))
    }
}

/// Writes a part as a mapping with its kind first, for [`tagged!`](crate::tagged).
#[doc(hidden)]
pub fn write_part<S: Serializer>(kind: &str, config: &impl Serialize, serializer: S) -> Result<S::Ok, S::Error> {
    let mut part = Mapping::from_iter([(Value::from(KIND), Value::from(kind))]);
    match serde_yaml::to_value(config).map_err(S::Error::custom)? {
        Value::Mapping(keys) => part.extend(keys),
        Value::Null => {}
        _ => return Err(S::Error::custom(format_args!("the config of kind {kind} is not a struct with named keys"))),
    }
    part.serialize(serializer)
}

/// The kind of a part's value (a mapping with `kind`, or the kind's name alone), one of `kinds`.
///
/// For registers that are filled at run time; [`tagged!`](crate::tagged) does it by itself.
///
/// # Errors
/// No kind, none of `kinds`, or a value of another sort, in the form that [`Tree::read`](super::Tree::read) explains.
pub fn kind_of<'a>(value: &'a Value, kinds: &[&str]) -> Result<&'a str, ReadError> {
    let fail = |path: &[&str], text: String| {
        Fault { path: path.iter().map(|key| (*key).to_owned()).collect(), text }.into_error()
    };
    let names = || kinds.iter().map(|kind| format!("`{kind}`")).collect::<Vec<_>>().join(", ");
    let sort = |value: &Value| match value {
        Value::Number(number) => format!("integer `{number}`"),
        Value::Bool(truth) => format!("boolean `{truth}`"),
        Value::Sequence(_) => "sequence".to_owned(),
        Value::Mapping(_) => "map".to_owned(),
        _ => "null".to_owned(),
    };
    let (path, kind): (&[&str], _) = match value {
        Value::String(kind) => (&[], kind),
        Value::Mapping(mapping) => match mapping.get(KIND) {
            Some(Value::String(kind)) => (&[KIND], kind),
            Some(other) => return Err(fail(&[KIND], format!("invalid type: {}, expected a string", sort(other)))),
            None => {
                let slip = mapping.keys().map(key_text).find(|key| nearest(key, [KIND]).is_some());
                return Err(match slip {
                    Some(key) => fail(&[&key], format!("unknown field `{key}`, expected one of `{KIND}`, `...`")),
                    None => fail(&[], format!("missing field `{KIND}`, expected one of {}", names())),
                });
            }
        },
        other => {
            let expected = "a mapping with 'kind' or the name of a kind";
            return Err(fail(&[], format!("invalid type: {}, expected {expected}", sort(other))));
        }
    };
    if kinds.contains(&kind.as_str()) {
        return Ok(kind);
    }
    Err(fail(path, format!("unknown variant `{kind}`, expected one of {}", names())))
}

/// Reads a part that may be absent: null is none, and a mapping's keys are laid over the `Default` of its config struct,
/// so that a recipe can turn on what the defaults leave off and say only what differs. For
/// `#[serde(deserialize_with = "mask_core::recipe::optional")]`.
///
/// # Errors
/// What doesn't fit the struct, in the form that [`Tree::read`](super::Tree::read) explains.
pub fn optional<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Serialize + Default + DeserializeOwned,
{
    let value = Value::deserialize(deserializer)?;
    if value.is_null() {
        return Ok(None);
    }
    let mut whole = serde_yaml::to_value(T::default()).map_err(D::Error::custom)?;
    overlay(&mut whole, value);
    serde_path_to_error::deserialize(&whole)
        .map(Some)
        .map_err(|error| D::Error::custom(Fault::new(&error).into_error()))
}

/// Reads a part's keys, laid over the `Default` of its config struct; its `kind` is left aside, and a kind's name alone
/// or nothing means the defaults. Paths in errors survive at any depth.
///
/// # Errors
/// What doesn't fit the struct, in the form that [`Tree::read`](super::Tree::read) explains. A `Deserialize` of one's
/// own passes it on by `map_err(D::Error::custom)`.
pub fn typed_over<T: Serialize + Default + DeserializeOwned>(value: &Value) -> Result<T, ReadError> {
    let mut whole = serde_yaml::to_value(T::default())?;
    match value {
        Value::Mapping(keys) => {
            let mut keys = keys.clone();
            if whole.get(KIND).is_none() {
                keys.shift_remove(KIND);
            }
            if !(keys.is_empty() && whole.is_null()) {
                overlay(&mut whole, Value::Mapping(keys));
            }
        }
        Value::String(_) | Value::Null => {}
        other => whole = other.clone(),
    }
    serde_path_to_error::deserialize(&whole).map_err(|error| Fault::new(&error).with_kind().into_error())
}
