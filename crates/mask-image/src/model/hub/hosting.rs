//! What the models of all families share.

use std::path::Path;
use std::rc::Rc;

use mask_core::data::Front;
use mask_core::hub::{Folder, Hosted};
use mask_core::nn::Parameters;
use mask_core::recipe::{Value, to_value};
use mask_core::{DevicePlan, Encoder, Layout, Named, Result, Split, View};
use tch::Tensor;

use super::{Colours, folder_front, input, plans, recipe_front, view};
use crate::model::{Vit, VitConfig};

/// A folder's encoder, and what its family has besides.
pub(super) struct Hosting<O> {
    pub config: VitConfig,
    pub encoder: Vit,
    pub own: O,
    colours: Colours,
    parameters: Rc<Parameters>,
    notes: Vec<String>,
}

/// What a family has besides its encoder, and the outputs of both.
pub(super) trait Outputs: Sized {
    /// See [`Hosted::forward`].
    fn forward(model: &Hosting<Self>, inputs: &Named<Tensor>) -> Result<Named<Tensor>>;
}

impl<O: Outputs + 'static> Hosting<O> {
    /// The model of a folder whose weights were loaded.
    pub(super) fn of(
        folder: &Folder,
        config: VitConfig,
        encoder: Vit,
        own: O,
        parameters: Rc<Parameters>,
        notes: Vec<String>,
    ) -> Result<Box<dyn Hosted>> {
        let colours = Colours::of(folder, config.channels)?;
        Ok(Box::new(Self { config, encoder, own, colours, parameters, notes }))
    }

    /// The view of `pixel_values`, and the plans that `bool_masked_pos` gives its rows.
    pub(super) fn masked(&self, inputs: &Named<Tensor>, has_token: bool) -> Result<(View, DevicePlan)> {
        let pixels = input(inputs, "pixel_values", 4)?;
        let layout = Layout::single(self.config.grid()?);
        let plans = plans(inputs.get("bool_masked_pos"), pixels.size()[0], &layout, has_token)?;
        view(&self.config, pixels, &plans)
    }
}

impl<O: Outputs> Hosted for Hosting<O> {
    fn forward(&self, inputs: &Named<Tensor>) -> Result<Named<Tensor>> {
        O::forward(self, inputs)
    }

    fn encoder(&self) -> &dyn Encoder {
        &self.encoder
    }

    fn recipe(&self) -> Result<Value> {
        to_value(&self.config)
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn front(&self, data: &Path) -> Result<Box<dyn Front>> {
        folder_front(&self.config, data, &self.colours)
    }

    fn front_over(&self, data: &Value, split: Split) -> Result<Box<dyn Front>> {
        recipe_front(&self.config, data, split, &self.colours)
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }
}
