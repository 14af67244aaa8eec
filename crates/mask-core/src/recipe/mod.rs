//! Recipes: YAML overlaid as one tree, read typed once, every error placed at its file, line and column.
//!
//! ```text
//! defaults  <-  base of the base  <-  base  <-  the file  <-  --set, --set, ...
//! ```
//!
//! [`Tree`] holds these layers. Mappings merge key by key and anything else replaces; where the `kind` of two mappings
//! differs, the upper replaces the lower. [`Tree::typed`] reads a part of the result into a config struct; an error's
//! key path is then looked up again in the layers, because a merged tree no longer knows where its keys stood.
//!
//! Config structs derive `Serialize` and `Deserialize` with `#[serde(deny_unknown_fields)]` and without
//! `serde(default)`: what a recipe leaves out is filled by overlaying it on the serialised `Default`, which
//! [`tagged!`](crate::tagged) does for parts chosen by `kind`, [`optional`] for parts that may be null, and [`typed_over`]
//! for methods registered at run time.
//! `tag`, `untagged` and `flatten` of serde are not for config structs, since they lose the path of an error.
//!
//! This is the only module that knows which YAML library is used.

mod explain;
mod locate;
mod nearest;
mod overlay;
mod read;
mod tagged;
#[cfg(test)]
mod tests;
mod tree;

pub use nearest::{Misspelling, misspellings};
pub use overlay::{differences, overlay, to_value, to_yaml};
pub use serde_yaml::{Mapping, Value};
pub use tagged::{kind_of, optional, typed_over};
pub use tree::Tree;

/// The error of a typed read below [`Tree::read`]. Its text may carry a key path in a private form; [`Tree::read`]
/// turns it into a line for people.
pub type ReadError = serde_yaml::Error;

#[doc(hidden)]
pub use serde;
#[doc(hidden)]
pub use tagged::{Part, first_line, write_part};
