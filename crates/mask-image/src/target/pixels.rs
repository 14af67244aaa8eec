//! Pixels of a patch, raw or standardised.

use mask_core::method::Sheet;
use mask_core::nn::{patches, unpatch};
use mask_core::{DevicePlan, Ids, Result, View};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::picture::{columns_of, rows_of};

/// In which order the numbers of a patch stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatchOrder {
    /// Row, column, channel (MAE).
    ChannelLast,
    /// Channel, row, column: a convolution with pixel shuffle (SimMIM).
    ChannelFirst,
}

/// What is done to the pixels of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalise {
    /// Nothing.
    None,
    /// Each patch to mean 0 and variance 1 over all its values, with the unbiased variance and 1e-6 inside the root
    /// (MAE).
    Patch,
}

/// The pixels of patches as a target.
#[derive(Clone, Debug)]
pub struct PatchPixels {
    patch: [i64; 2],
    order: PatchOrder,
    normalise: Normalise,
}

impl PatchPixels {
    /// Patches of `patch` pixels.
    #[must_use]
    pub fn new(patch: [usize; 2], order: PatchOrder, normalise: Normalise) -> Self {
        Self { patch: patch.map(|side| side as i64), order, normalise }
    }

    fn cut(&self, view: &View) -> Result<Tensor> {
        let pixels = view.input("pixels")?.to_kind(Kind::Float);
        patches(&pixels, &self.patch, self.order == PatchOrder::ChannelLast)
    }

    /// Targets of some positions, [N, p * p * C].
    ///
    /// # Errors
    /// Images that the patch doesn't divide.
    pub fn at(&self, view: &View, scored: &Ids) -> Result<Tensor> {
        let raw = scored.take_flat(&self.cut(view)?);
        Ok(match self.normalise {
            Normalise::None => raw,
            Normalise::Patch => {
                let (mean, sd) = statistics(&raw);
                (raw - mean) / sd
            }
        })
    }

    /// Original, what is hidden, the answer, and the answer among the visible patches: a row for each sample.
    ///
    /// `answers` [N, p * p * C] stand at the scored positions. Standardised targets are given back the mean and
    /// variance of the true patch, which the caption says.
    ///
    /// # Errors
    /// Shapes that don't fit.
    pub fn sheet(&self, answers: &Tensor, view: &View, plan: &DevicePlan) -> Result<Sheet> {
        let cut = self.cut(view)?; // [B, L, P]
        let (rows, length, numbers) = cut.size3()?;
        let mut answers = answers.to_kind(Kind::Float);
        if self.normalise == Normalise::Patch {
            let (mean, sd) = statistics(&plan.scored.take_flat(&cut));
            answers = answers * sd + mean;
        }
        let flat = |x: &Tensor| x.view([rows * length, numbers]);
        let pasted = flat(&cut).index_copy(0, &plan.scored.flat, &answers).view([rows, length, numbers]);
        let hidden = plan.hidden.unsqueeze(2); // [B, L, 1]
        let grey = Tensor::zeros([1, 1, 1], (Kind::Float, cut.device()));
        let shown = cut.where_self(&hidden.logical_not(), &grey);
        let alone = pasted.where_self(&hidden, &grey);
        let images = [&cut, &shown, &alone, &pasted].map(|tokens| self.image(tokens, view));
        let mut sheet = Sheet {
            columns: columns_of(["original", "hidden", "answer", "answer and visible"]),
            rows: Vec::new(),
            caption: match self.normalise {
                Normalise::Patch => {
                    "Each patch of the answer is given the mean and variance of the true patch, which the \
                     model did not predict."
                        .to_owned()
                }
                Normalise::None => "The answers are pixels as the model gave them.".to_owned(),
            },
        };
        sheet.rows = rows_of(&images.into_iter().collect::<Result<Vec<_>>>()?, view)?;
        Ok(sheet)
    }

    /// Tokens [B, L, P] as images [B, C, H, W].
    fn image(&self, tokens: &Tensor, view: &View) -> Result<Tensor> {
        let grid: Vec<i64> = view.layout.grid()?.dims().iter().map(|side| *side as i64).collect();
        unpatch(tokens, &grid, &self.patch, self.order == PatchOrder::ChannelLast)
    }
}

/// Mean and standard deviation of each row, [N, 1] each.
fn statistics(raw: &Tensor) -> (Tensor, Tensor) {
    let mean = raw.mean_dim(-1, true, Kind::Float);
    let variance = raw.var_dim(-1, true, true);
    (mean, (variance + 1e-6).sqrt())
}

#[cfg(test)]
mod pins {
    use super::*;

    /// Ledger 081: norm_pix of [0, 0, 0, 1] is [-0.5, -0.5, -0.5, 1.5]; a flat patch has target 0.
    #[test]
    fn maes_normalised_pixels() {
        for (raw, pin) in [([0f32, 0., 0., 1.], [-0.5f32, -0.5, -0.5, 1.5]), ([3.; 4], [0.; 4])] {
            let raw = Tensor::from_slice(&raw).view([1, 4]);
            let (mean, sd) = statistics(&raw);
            let target: Vec<f32> = Vec::try_from(((raw - mean) / sd).view([-1])).unwrap();
            assert!(target.iter().zip(pin).all(|(a, b)| (a - b).abs() < 5e-6), "{target:?}");
        }
    }

    /// Ledger 081: the loss of a zero answer on a patch that isn't flat is (n - 1) / n.
    #[test]
    fn a_zero_answer_costs_almost_1() {
        tch::manual_seed(1);
        let raw = Tensor::rand([5, 768], (Kind::Float, tch::Device::Cpu));
        let (mean, sd) = statistics(&raw);
        let loss = ((raw - mean) / sd).square().mean(Kind::Double).double_value(&[]);
        assert!((loss - 0.998698).abs() < 2e-5, "{loss}");
    }
}
