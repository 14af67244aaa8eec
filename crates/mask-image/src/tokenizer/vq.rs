//! VQ tokenizer: a small convolutional VQ-VAE; a patch becomes the nearest code of a codebook.
//!
//! Aaron van den Oord, Oriol Vinyals, Koray Kavukcuoglu: Neural Discrete Representation Learning, NeurIPS 2017,
//! arXiv 1711.00937.
//!
//! | part | choice | source |
//! | --- | --- | --- |
//! | encoder | log2(patch) halvings by kernels of 4, residual blocks, so that one code falls on one patch | section 4.1 |
//! | codebook | moving means of the vectors nearest to each code | appendix A.1 |
//! | gradient | straight through the codebook; the encoder is pulled to its codes | equation 3 |
//! | decoder | the encoder's mirror | section 4.1 |
//! | loss | squared error of all pixels, plus 0.25 times the commitment | equation 3 |
//!
//! It hides nothing. Deviation: a code that stands for too few vectors begins anew at one of the batch's, as Jukebox's
//! do; the paper has no such rule.

use mask_core::data::Front;
use mask_core::method::{Count, Sheet, Tokenizer};
use mask_core::nn::{Codebook, CodebookConfig, ConvConfig, ConvDecoder, ConvEncoder, Quantised, Scope};
use mask_core::{
    Batch, Card, DevicePlan, Encoder, Error, Features, Method, MethodConfig, Named, Outcome, Result, Site, Step, Term,
    View, Want,
};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::data::{ImageData, ImageFront, ViewSpec};
use crate::model::VitConfig;
use crate::picture::{columns_of, rows_of};

/// Recipe keys of the VQ tokenizer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VqConfig {
    /// Height and width of an image, in pixels.
    pub image: [usize; 2],
    /// Channels of an image.
    pub channels: usize,
    /// Side of a patch in pixels, a power of two.
    pub patch: usize,
    /// Encoder and decoder.
    pub convolutions: ConvConfig,
    /// The codes.
    pub codebook: CodebookConfig,
    /// Weight of the squared distance between the encoder's vectors and their codes.
    pub commitment: f64,
}

impl Default for VqConfig {
    /// 8192 codes on patches of 16 pixels, as BEiT's tokenizer has them.
    fn default() -> Self {
        Self {
            image: [224, 224],
            channels: 3,
            patch: 16,
            convolutions: ConvConfig { width: 256, blocks: 1 },
            codebook: CodebookConfig { codes: 8192, ..CodebookConfig::default() },
            commitment: 0.25,
        }
    }
}

impl VqConfig {
    /// The encoder of the same geometry, by which the front cuts images.
    fn geometry(&self) -> VitConfig {
        let Self { image, channels, patch, .. } = *self;
        VitConfig { image, channels, patch: [patch; 2], ..VitConfig::mae(64, 1, 1) }
    }
}

impl MethodConfig for VqConfig {
    type Data = ImageData;
    const CARD: Card = Card {
        name: "vq-tokenizer",
        title: "Neural Discrete Representation Learning",
        year: 2017,
        arxiv: Some("1711.00937"),
        ledger: &[0],
        summary: "a small convolutional VQ-VAE with a codebook of moving means",
    };

    fn front(&self, site: &Site<'_, ImageData>) -> Result<Box<dyn Front>> {
        let geometry = self.geometry();
        let view = ViewSpec { size: self.image, augment: site.data.augment.clone(), mask: None };
        ImageFront::several(site, &geometry, &[view])
    }

    fn build(&self, at: &Scope) -> Result<Box<dyn Method>> {
        let grid = self.geometry().grid()?.as_plane()?.map(|side| side as i64);
        if !self.patch.is_power_of_two() {
            return Err(Error::value("patch", format!("{} is no power of two: 2, 4, 8, 16", self.patch)));
        }
        if !(0.0..1e6).contains(&self.commitment) {
            return Err(Error::value("commitment", format!("{} lies outside 0 to 1e6", self.commitment)));
        }
        let levels = self.patch.trailing_zeros() as usize;
        let (channels, width) = (self.channels as i64, self.codebook.width);
        let within = |error: Error| error.within("convolutions");
        Ok(Box::new(Vq {
            encoder: VqEncoder {
                stack: ConvEncoder::new(&at.enter("encoder"), &self.convolutions, levels, [channels, width], 2)
                    .map_err(within)?,
                channels,
                width,
            },
            codebook: Codebook::new(&at.enter("codebook"), &self.codebook).map_err(|e| e.within("codebook"))?,
            decoder: ConvDecoder::new(&at.enter("decoder"), &self.convolutions, levels, [width, channels], 2)
                .map_err(within)?,
            grid,
            commitment: self.commitment,
        }))
    }
}

/// What is trained; the [page above](self) says how.
pub struct Vq {
    encoder: VqEncoder,
    codebook: Codebook,
    decoder: ConvDecoder,
    grid: [i64; 2],
    commitment: f64,
}

/// The convolutions in front of the codebook, as a representation model of one block.
struct VqEncoder {
    stack: ConvEncoder,
    channels: i64,
    width: i64,
}

impl VqEncoder {
    /// Vectors of all patches, [B, L, D].
    fn vectors(&self, view: &View) -> Result<Tensor> {
        let pixels = view.input("pixels")?; // [B, C, H, W]
        if pixels.size().get(1) != Some(&self.channels) {
            return Err(Error::shape("pixels", format!("[batch, {}, height, width]", self.channels), &pixels.size()));
        }
        Ok(self.stack.forward(pixels)?.flatten(2, 3).transpose(1, 2))
    }
}

impl Encoder for VqEncoder {
    fn encode(&self, view: &View, plan: Option<&DevicePlan>, want: &Want, _: &Step<'_>) -> Result<Features> {
        if plan.is_some() || want.attention_of.is_some() {
            return Err(Error::value("encoder", "a convolutional tokenizer reads whole images and has no attention"));
        }
        Ok(Features { layers: vec![self.vectors(view)?], prefix: 0, valid: None, attention: None })
    }

    fn depth(&self) -> usize {
        1
    }

    fn width(&self) -> i64 {
        self.width
    }
}

impl Vq {
    /// Vectors [N, D] in the order of patches as images.
    fn image(&self, vectors: &Tensor) -> Result<Tensor> {
        let [height, width] = self.grid;
        let cells = vectors.reshape([-1, height, width, self.encoder.width]).permute([0, 3, 1, 2]);
        self.decoder.forward(&cells)
    }
}

impl Method for Vq {
    fn loss(&self, batch: &Batch, step: &Step<'_>) -> Result<Outcome> {
        let view = batch.only_view()?;
        let vectors = self.encoder.vectors(view)?.flatten(0, 1); // [B L, D]
        let Quantised { ids, straight, commitment } = self.codebook.quantise(&vectors)?;
        let answers = self.image(&straight)?.to_kind(Kind::Float); // [B, C, H, W]
        let pixels = view.input("pixels")?.to_kind(Kind::Float);
        let errors = (&answers - &pixels).square().mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float); // [B]
        let positions = batch.totals.samples * (self.grid[0] * self.grid[1]) as f64;
        let mut outcome = Outcome::one("pixels", errors.sum(None), batch.totals.samples);
        outcome.terms.push(Term {
            name: "commitment",
            weight: self.commitment,
            sum: commitment.sum(None),
            count: Count::Global(positions),
        });
        outcome.notes = self.codebook.notes(&vectors, &ids, step.micro);
        Ok(outcome.with(answers.flatten(1, -1), pixels.flatten(1, -1)))
    }

    fn after_step(&mut self, notes: &Named<Tensor>, _: &Step<'_>) -> Result<Named<Tensor>> {
        self.codebook.follow(notes)?;
        Ok(Named::new())
    }

    fn encoder(&self) -> &dyn Encoder {
        &self.encoder
    }

    fn tokenizer(&self) -> Option<&dyn Tokenizer> {
        Some(self)
    }

    fn show(&self, batch: &Batch, _: &Step<'_>) -> Result<Sheet> {
        let view = batch.only_view()?;
        let pixels = view.input("pixels")?.to_kind(Kind::Float);
        let decoded = self.decode(&self.ids(view)?)?;
        Ok(Sheet {
            columns: columns_of(["original", "decoded"]),
            rows: rows_of(&[pixels, decoded], view)?,
            caption: "What the codes of an image are decoded to.".to_owned(),
        })
    }
}

impl Tokenizer for Vq {
    fn sizes(&self) -> Vec<u32> {
        vec![self.codebook.len() as u32]
    }

    fn ids(&self, view: &View) -> Result<Tensor> {
        let vectors = self.encoder.vectors(view)?;
        let (rows, length, _) = vectors.size3()?;
        Ok(self.codebook.ids(&vectors.flatten(0, 1))?.view([rows, 1, length]))
    }

    fn decode(&self, ids: &Tensor) -> Result<Tensor> {
        let length = self.grid[0] * self.grid[1];
        if ids.size().get(1..) != Some(&[1, length]) {
            return Err(Error::shape("ids", format!("[batch, 1, {length}]"), &ids.size()));
        }
        self.image(&self.codebook.look_up(ids))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mask_core::method::{DeviceDraft, Reduce};
    use mask_core::nn::Parameters;
    use mask_core::{Clock, Grid, Layout};
    use tch::Device;

    fn view(rows: i64) -> View {
        let shades = Tensor::randint(3, [rows, 1, 2, 3], (Kind::Int64, Device::Cpu)).to_kind(Kind::Float) - 1.0;
        let pixels = shades.upsample_nearest2d([8, 12], None, None);
        let colours = Tensor::from_slice(&[0f32, 1.0]).view([1, 2, 1]).repeat([rows, 1, 1]);
        View {
            inputs: [("pixels".to_owned(), pixels), ("colours".to_owned(), colours)].into(),
            layout: Layout::single(Grid::plane(2, 3)),
            draft: DeviceDraft::Whole,
        }
    }

    fn small() -> VqConfig {
        VqConfig {
            image: [8, 12],
            channels: 1,
            patch: 4,
            convolutions: ConvConfig { width: 8, blocks: 1 },
            codebook: CodebookConfig { codes: 16, width: 4, ..CodebookConfig::default() },
            ..VqConfig::default()
        }
    }

    /// Some steps of Adam on patches of three shades: the loss falls, several codes are used, the codebook gets no
    /// gradient.
    #[test]
    fn it_learns_and_its_ids_decode() {
        tch::manual_seed(3);
        let parameters = Parameters::new(Device::Cpu, 0);
        let mut vq = small().build(&parameters.root()).unwrap();
        let totals = mask_core::Totals { samples: 4.0, ..Default::default() };
        let batch = Batch { views: vec![view(4)], ids: vec![0, 1, 2, 3], totals };
        let clock = Clock::at(0, 1, 1);
        let step = Step { clock: &clock, train: true, micro: 0 };
        let mut moments = Vec::new();
        parameters.each(|p| moments.push([p.tensor.zeros_like().detach(), p.tensor.zeros_like().detach()]));
        let mut losses = Vec::new();
        for _ in 0..100 {
            let outcome = vq.loss(&batch, &step).unwrap();
            let loss = outcome.loss(1).unwrap();
            losses.push(loss.double_value(&[]));
            loss.backward();
            tch::no_grad(|| {
                let mut moments = moments.iter_mut();
                parameters.each(|p| {
                    let [mean, square] = moments.next().unwrap();
                    let mut gradient = p.tensor.grad();
                    assert_eq!(gradient.defined(), p.trained, "{}", p.name);
                    if p.trained {
                        let _ = mean.lerp_(&gradient, 0.1);
                        let _ = square.lerp_(&gradient.square(), 0.05);
                        let _ = p.tensor.shallow_clone().g_sub_(&(&*mean / (square.sqrt() + 1e-8) * 3e-3));
                        let _ = gradient.zero_();
                    }
                });
            });
            let sums = |(name, note, reduce): &(&str, Tensor, Reduce)| {
                assert!(matches!(reduce, Reduce::Sum) || note.numel() == 1);
                ((*name).to_owned(), note.shallow_clone())
            };
            let notes = outcome.notes.iter().map(sums).collect();
            vq.after_step(&notes, &step).unwrap();
        }
        assert!(losses[99] < 0.5 * losses[0], "{losses:?}");
        let tokenizer = vq.tokenizer().unwrap();
        let ids = tokenizer.ids(&batch.views[0]).unwrap();
        assert_eq!((ids.size(), tokenizer.sizes()), (vec![4, 1, 6], vec![16]));
        let distinct: std::collections::BTreeSet<i64> =
            Vec::<i64>::try_from(ids.view([-1])).unwrap().into_iter().collect();
        assert!(distinct.len() > 2, "{distinct:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap().size(), [4, 1, 8, 12]);
        assert!(tokenizer.decode(&ids.narrow(2, 0, 5)).is_err());
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        let refused = |config: VqConfig| {
            config
                .build(&Parameters::new(Device::Cpu, 0).root())
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default()
        };
        assert!(refused(VqConfig { image: [12, 12], patch: 6, ..small() }).starts_with("patch: 6 is no power of two"));
        assert!(refused(VqConfig { commitment: -1.0, ..small() }).starts_with("commitment: "));
        let codebook = CodebookConfig { decay: 1.0, ..small().codebook };
        assert!(refused(VqConfig { codebook, ..small() }).starts_with("codebook.decay: "));
    }
}
