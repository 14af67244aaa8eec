//! Where pictures come from.

use mask_core::Result;

use super::raster::Raster;

/// Numbered pictures, with labels or without; read by several threads at once.
pub trait ImageSource: Send + Sync {
    /// Number of pictures.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The class of a picture as an index into [`Self::classes`]; `None` without labels or beyond the last picture.
    fn label(&self, index: usize) -> Option<u32>;

    /// Names of the classes, in the order of labels; empty without labels.
    fn classes(&self) -> &[String];

    /// What to call a picture in a message: its path, or a file and a number such as `train-images#17`.
    fn name(&self, index: usize) -> String;

    /// Decodes a picture.
    ///
    /// # Errors
    /// The picture can't be read or decoded, which concerns it alone: the others can still be read. Or `index` is
    /// beyond the last.
    fn read(&self, index: usize) -> Result<Raster>;

    /// The class of every pixel of a picture, in one channel and the picture's size: 0 for the background, a label + 1
    /// elsewhere. `None` where the source doesn't know.
    ///
    /// # Errors
    /// As for [`Self::read`].
    fn regions(&self, index: usize) -> Result<Option<Raster>> {
        let _ = index;
        Ok(None)
    }

    /// Channels, height and width of a picture, read but not decoded.
    ///
    /// # Errors
    /// As for [`Self::read`].
    fn size_of(&self, index: usize) -> Result<[usize; 3]>;
}
