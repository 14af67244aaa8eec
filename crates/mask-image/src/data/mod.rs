//! Pictures: where they come from ([`ImageSource`]), how they are decoded, cropped, resized and normalised ([`Augment`]).
//!
//! Everything here is plain bytes and numbers that any thread may use; tensors are made later, from whole batches.
//!
//! ```
//! use mask_image::data::{Augment, Raster};
//! let grey = Raster::new(1, 28, 28, vec![128; 28 * 28])?;
//! let recipe = Augment { size: [32, 32], pad: 2, crop: None, centre: None, mean: vec![0.5], std: vec![0.5], ..Augment::default() };
//! assert_eq!(recipe.eval(&grey)?.len(), 32 * 32);
//! # Ok::<(), mask_core::Error>(())
//! ```

mod augment;
mod blur;
mod colour;
mod compose;
mod crop;
mod crops;
mod decode;
mod erase;
mod folder;
mod front;
mod idx;
mod raster;
mod recolour;
mod resize;
mod salience;
mod source;

pub use augment::{Augment, normalise};
pub use compose::{Composed, ComposedConfig, Part};
pub use crop::{Draw, RandomResized};
pub use crops::MultiCrop;
pub use decode::decode;
pub use folder::ImageFolder;
pub use front::{FolderConfig, IdxConfig, ImageData, ImageFront, Reads, SourceConfig, ViewSpec};
pub use idx::IdxImages;
pub use raster::{Area, MAX_SIDE, Raster};
pub use recolour::{Blur, Jitter};
pub use resize::{Interpolation, resize, resize_window};
pub use source::ImageSource;
