//! `config.json`, read field by field, so that a value that isn't supported is refused by name.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::nn::Activation;
use crate::{Error, Result};

/// A `config.json`.
#[derive(Clone, Debug)]
pub struct ConfigReader {
    path: PathBuf,
    fields: Map<String, Value>,
}

impl ConfigReader {
    /// Reads the file.
    ///
    /// # Errors
    /// It is missing or no JSON object.
    pub fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::file(path, "is missing; the folder must hold one"),
            _ => Error::io(path, "reading")(error),
        })?;
        match serde_json::from_slice(&text) {
            Ok(Value::Object(fields)) => Ok(Self { path: path.to_owned(), fields }),
            Ok(_) => Err(Error::file(path, "is no JSON object")),
            Err(error) => Err(Error::file(path, format!("is no valid JSON: {error}"))),
        }
    }

    /// Fields that don't come from a file of their own; errors name `path`.
    #[must_use]
    pub fn of(path: &Path, fields: Map<String, Value>) -> Self {
        Self { path: path.to_owned(), fields }
    }

    /// The error that a field can't be used.
    #[must_use]
    pub fn refuse(&self, key: &str, problem: &str) -> Error {
        Error::file(&self.path, format!("{key}: {problem}"))
    }

    fn get<T>(&self, key: &str, default: Option<T>, what: &str, read: impl Fn(&Value) -> Option<T>) -> Result<T> {
        match self.fields.get(key) {
            Some(Value::Null) | None => {
                default.ok_or_else(|| self.refuse(key, &format!("is missing, expected {what}")))
            }
            Some(value) => read(value).ok_or_else(|| self.refuse(key, &format!("expected {what}, found {value}"))),
        }
    }

    /// A size, 1 to 2^30.
    ///
    /// # Errors
    /// Missing without a default, or no such number.
    pub fn size(&self, key: &str, default: Option<i64>) -> Result<i64> {
        let size = |value: &Value| value.as_i64().filter(|size| (1..=1 << 30).contains(size));
        self.get(key, default, "a whole number from 1", size)
    }

    /// A number.
    ///
    /// # Errors
    /// Missing without a default, or no number.
    pub fn number(&self, key: &str, default: Option<f64>) -> Result<f64> {
        self.get(key, default, "a number", Value::as_f64)
    }

    /// True or false.
    ///
    /// # Errors
    /// Missing without a default, or neither.
    pub fn flag(&self, key: &str, default: Option<bool>) -> Result<bool> {
        self.get(key, default, "true or false", Value::as_bool)
    }

    /// A text.
    ///
    /// # Errors
    /// Missing without a default, or no text.
    pub fn text(&self, key: &str, default: Option<&str>) -> Result<String> {
        self.get(key, default.map(str::to_owned), "a text", |value| value.as_str().map(str::to_owned))
    }

    /// A list of numbers, where there is one.
    ///
    /// # Errors
    /// Something else, or no number.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let list = |value: &Value| value.as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>();
        match self.fields.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => self.get(key, None, "a list of numbers", list).map(Some),
        }
    }

    /// Two sides: one number for both, or a list of two.
    ///
    /// # Errors
    /// Missing without a default, or neither form.
    pub fn sides(&self, key: &str, default: Option<[i64; 2]>) -> Result<[i64; 2]> {
        let size = |value: &Value| value.as_i64().filter(|size| (1..=1 << 20).contains(size));
        self.get(key, default, "a side, or a list of height and width", |value| match value {
            Value::Array(sides) => match sides.as_slice() {
                [height, width] => Some([size(height)?, size(width)?]),
                _ => None,
            },
            one => size(one).map(|side| [side, side]),
        })
    }

    /// Refuses every value but the ones that are supported.
    ///
    /// # Errors
    /// Another value.
    pub fn only(&self, key: &str, supported: &[Value]) -> Result<()> {
        match self.fields.get(key) {
            None | Some(Value::Null) => Ok(()),
            Some(value) if supported.contains(value) => Ok(()),
            Some(value) => {
                let list: Vec<String> = supported.iter().map(Value::to_string).collect();
                Err(self.refuse(key, &format!("{value} is not supported, only {}", list.join(", "))))
            }
        }
    }

    /// `hidden_act` and its like.
    ///
    /// # Errors
    /// An activation that isn't supported.
    pub fn activation(&self, key: &str) -> Result<Activation> {
        let name = self.text(key, Some("gelu"))?;
        Ok(match name.as_str() {
            "gelu" | "gelu_python" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Activation::GeluTanh,
            "relu" => Activation::Relu,
            "silu" | "swish" => Activation::Silu,
            _ => {
                let problem = format!("{name:?} is not supported, only gelu, gelu_new, gelu_pytorch_tanh, relu, silu");
                return Err(self.refuse(key, &problem));
            }
        })
    }

    /// All fields, to be written again.
    #[must_use]
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }
}
