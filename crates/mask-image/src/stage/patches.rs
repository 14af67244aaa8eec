//! `patches`: the raw numbers of every patch, as features for clusters.

use mask_core::nn::patches;
use mask_core::stage::{Measured, Mention, SPLITS, Shape, StageConfig, Workbench, split_name, write_rows};
use mask_core::{Named, Result, Site};
use serde::{Deserialize, Serialize};

use crate::data::{ImageData, ImageFront, ViewSpec};
use crate::model::VitConfig;

/// Recipe keys of `patches`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchesConfig {
    /// Height and width of an image, in pixels.
    pub image: [usize; 2],
    /// Height and width of a patch, in pixels.
    pub patch: [usize; 2],
}

impl Default for PatchesConfig {
    fn default() -> Self {
        Self { image: [224, 224], patch: [16, 16] }
    }
}

impl PatchesConfig {
    fn geometry(&self, channels: usize) -> VitConfig {
        VitConfig { image: self.image, patch: self.patch, channels, ..VitConfig::mae(64, 1, 1) }
    }
}

impl StageConfig for PatchesConfig {
    const READS_DATA: bool = true;

    fn check(&self) -> Result<()> {
        self.geometry(1).grid().map(|_| ())
    }

    fn inputs(&self) -> Vec<Mention> {
        Vec::new()
    }

    fn make(&self, at: &Workbench<'_>) -> Result<Measured> {
        let data: ImageData = at.data_keys()?;
        let geometry = self.geometry(data.augment.channels());
        let mut measured = Measured::new();
        for split in SPLITS {
            let view = ViewSpec { size: self.image, augment: data.augment.clone(), mask: None };
            let front = ImageFront::several(&Site::new(&data, split), &geometry, &[view])?;
            let width = geometry.patch_numbers() as usize;
            let shape = Shape::of(&*front, width, Named::new())?;
            let sides = self.patch.map(|side| side as i64);
            write_rows(at, &*front, split, &shape, &mut |view, _| {
                // Row, column, channel: the order of a target's pixels.
                Ok((vec![("values".to_owned(), patches(view.input("pixels")?, &sides, true)?)], None))
            })?;
            measured.insert(format!("{}_samples", split_name(split)), shape.samples.into());
            measured.insert("numbers".to_owned(), width.into());
        }
        Ok(measured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_that_do_not_fit_are_refused() {
        let config = PatchesConfig { image: [28, 28], patch: [5, 4] };
        assert!(config.check().unwrap_err().to_string().contains("don't divide"));
        assert!(PatchesConfig::default().check().is_ok());
    }
}
