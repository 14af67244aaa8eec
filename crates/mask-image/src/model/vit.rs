//! One vision transformer with options, which serves all image papers.

use mask_core::hub::{ClassHead, Export};
use mask_core::nn::{
    Activation, Init, InitRule, NormPlace, PatchEmbed, PositionTable, QkvBias, RelativeBias, RelativeBiasConfig, Scope,
    Stack, StackConfig, interpolate,
};
use mask_core::{DevicePlan, Encoder, Error, Features, Grid, Result, Step, View, Want};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Recipe keys of [`Vit`]. Papers differ in a few of them; the table stands in `ARCHITECTURE.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Height and width of the image, in pixels.
    pub image: [usize; 2],
    /// Channels of the image.
    pub channels: usize,
    /// Height and width of a patch, in pixels.
    pub patch: [usize; 2],
    /// Numbers of a token.
    pub width: i64,
    /// Blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: i64,
    /// Numbers in the middle of the feed-forward branch.
    pub mlp: i64,
    /// Whether a class token stands in front.
    pub class_token: bool,
    /// Whether weight decay applies to it and to a learned position table (MAE, iBOT) or not (BEiT, SimMIM).
    pub class_token_decays: bool,
    /// How tokens learn where they stand.
    pub positions: PositionTable,
    /// Whether blocks add a learned bias by relative position.
    pub relative_bias: RelativeBiasConfig,
    /// Which of query, key and value have a bias.
    pub qkv_bias: QkvBias,
    /// Start of the trained gain on each branch; none = no gain.
    pub layer_scale: Option<f64>,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Non-linearity of the feed-forward branch.
    pub activation: Activation,
    /// Stochastic depth of the last block.
    pub drop_path: f64,
    /// Dropout on the branches.
    pub dropout: f64,
    /// The law of the initial weights.
    pub init: InitRule,
}

impl VitConfig {
    /// MAE's ViT of a width, depth and number of heads, 16-pixel patches of 224-pixel colour images.
    #[must_use]
    pub fn mae(width: i64, depth: usize, heads: i64) -> Self {
        Self {
            image: [224, 224],
            channels: 3,
            patch: [16, 16],
            width,
            depth,
            heads,
            mlp: 4 * width,
            class_token: true,
            class_token_decays: true,
            positions: PositionTable::SinCos,
            relative_bias: RelativeBiasConfig::None,
            qkv_bias: QkvBias::Full,
            layer_scale: None,
            norm_eps: 1e-6,
            activation: Activation::Gelu,
            drop_path: 0.0,
            dropout: 0.0,
            init: InitRule::Xavier,
        }
    }

    /// BEiT's ViT in pre-training: no position table but one shared relative bias, gains from 0.1, no key bias.
    #[must_use]
    pub fn beit(width: i64, depth: usize, heads: i64) -> Self {
        Self {
            positions: PositionTable::None,
            relative_bias: RelativeBiasConfig::Shared,
            qkv_bias: QkvBias::Qv,
            layer_scale: Some(0.1),
            class_token_decays: false,
            init: InitRule::NarrowRescaled,
            ..Self::mae(width, depth, heads)
        }
    }

    /// The grid of patches.
    ///
    /// # Errors
    /// A patch that doesn't divide the image.
    pub fn grid(&self) -> Result<Grid> {
        let [image, patch] = [self.image, self.patch];
        if patch.contains(&0) || (0..2).any(|side| image[side] == 0 || image[side] % patch[side] != 0) {
            let problem = format!("patches of {patch:?} pixels don't divide an image of {image:?}");
            return Err(Error::value("patch", problem));
        }
        Grid::new(&[image[0] / patch[0], image[1] / patch[1]])
    }

    /// Tokens in front of the patches.
    #[must_use]
    pub fn prefix(&self) -> i64 {
        i64::from(self.class_token)
    }

    /// Numbers of a patch.
    #[must_use]
    pub fn patch_numbers(&self) -> i64 {
        (self.channels * self.patch[0] * self.patch[1]) as i64
    }

    /// What the blocks are made of.
    #[must_use]
    pub fn stack(&self) -> StackConfig {
        StackConfig {
            width: self.width,
            depth: self.depth,
            heads: self.heads,
            mlp: self.mlp,
            norm: NormPlace::Pre,
            final_norm: true,
            norm_eps: self.norm_eps,
            activation: self.activation,
            qkv_bias: self.qkv_bias,
            layer_scale: self.layer_scale,
            drop_path: self.drop_path,
            dropout: self.dropout,
            init: self.init,
        }
    }

    /// Operations of a forward that embeds and reads `seen` patches, an addition and a multiplication counted as two.
    #[must_use]
    pub fn flops(&self, seen: f64) -> f64 {
        2.0 * seen * (self.patch_numbers() * self.width) as f64 + self.stack().flops(seen + self.prefix() as f64)
    }

    /// The encoder. `mask_token` says whether it reads mask tokens.
    ///
    /// # Errors
    /// Numbers that don't fit together.
    pub fn build(&self, at: &Scope, mask_token: bool) -> Result<Vit> {
        self.build_with(at, mask_token.then(|| self.init.token()))
    }

    /// As [`VitConfig::build`], with the law of the mask token where there is one.
    ///
    /// # Errors
    /// As there.
    pub fn build_with(&self, at: &Scope, mask_token: Option<Init>) -> Result<Vit> {
        self.build_over(at, mask_token, &self.stack())
    }

    /// The encoder without mask token and without its final norm, whose output is that of its last block.
    ///
    /// # Errors
    /// As for [`VitConfig::build`].
    pub fn build_without_norm(&self, at: &Scope) -> Result<Vit> {
        self.build_over(at, None, &StackConfig { final_norm: false, ..self.stack() })
    }

    fn build_over(&self, at: &Scope, mask_token: Option<Init>, stack: &StackConfig) -> Result<Vit> {
        stack.check()?;
        if self.channels == 0 || self.channels > 1 << 16 {
            return Err(Error::value("channels", format!("{} is not a number from 1 to 65536", self.channels)));
        }
        let (grid, width, init) = (self.grid()?, self.width, self.init);
        let prefix = self.prefix();
        let token = |name: &str, law: Option<Init>, decays: bool| -> Result<Option<Tensor>> {
            let shape = [1, 1, width];
            Ok(match (law, decays) {
                (None, _) => None,
                (Some(law), true) => Some(at.weight(name, &shape, law)?),
                (Some(law), false) => Some(at.plain(name, &shape, law)?),
            })
        };
        let relative = |at: &Scope| RelativeBias::new(at, &grid, self.heads, self.class_token);
        let patch = self.patch.map(|side| side as i64);
        Ok(Vit {
            embed: PatchEmbed::new(&at.enter("patch"), self.channels as i64, &patch, width, init)?,
            class_token: token("class_token", self.class_token.then(|| init.token()), self.class_token_decays)?,
            mask_token: token("mask_token", mask_token, true)?,
            positions: self.positions.build(at, &grid, width, prefix, init, self.class_token_decays)?,
            relative: match self.relative_bias {
                RelativeBiasConfig::None => Vec::new(),
                RelativeBiasConfig::Shared => vec![relative(&at.enter("relative").at_layer(self.depth + 1))?],
                RelativeBiasConfig::PerBlock => (0..self.depth)
                    .map(|block| relative(&at.enter("block").enter(block).enter("relative").at_layer(block + 1)))
                    .collect::<Result<_>>()?,
            },
            stack: Stack::new(at, stack)?,
            grid: grid.as_plane()?.map(|side| side as i64),
            patch,
            config: self.clone(),
            name: at.prefix(),
        })
    }

    /// The smallest useful initial law for heads outside the encoder.
    #[must_use]
    pub fn head_init(&self, out: i64) -> Init {
        self.init.linear(self.width, out)
    }
}

/// A vision transformer: patches, an optional class token, positions, blocks, a final norm.
#[derive(Debug)]
pub struct Vit {
    embed: PatchEmbed,
    class_token: Option<Tensor>,
    mask_token: Option<Tensor>,
    positions: Option<Tensor>,
    relative: Vec<RelativeBias>,
    stack: Stack,
    /// The plane of patches that the position table is for.
    grid: [i64; 2],
    patch: [i64; 2],
    config: VitConfig,
    /// The scope of its parameters.
    name: String,
}

impl Encoder for Vit {
    fn encode(&self, view: &View, plan: Option<&DevicePlan>, want: &Want, step: &Step<'_>) -> Result<Features> {
        let pixels = view.input("pixels")?; // [B, C, H, W]
        let grid = view.layout.grid()?.as_plane()?.map(|side| side as i64);
        let image = [0, 1].map(|side| grid[side] * self.patch[side]);
        if pixels.size().get(2..) != Some(&image[..]) {
            let expected = format!("[batch, {}, {}, {}]", self.embed.channels(), image[0], image[1]);
            return Err(Error::shape("pixels", expected, &pixels.size()));
        }
        if grid != self.grid && !self.relative.is_empty() {
            let problem = format!("a relative bias of {:?} patches can't read {grid:?}", self.grid);
            return Err(Error::value("relative_bias", problem));
        }
        let rows = pixels.size()[0];
        let tokens = plan.and_then(|plan| plan.mask_tokens.as_ref());
        // With mask tokens all positions are embedded and some replaced; otherwise only what is read is embedded.
        let seen = plan.map(|plan| &plan.seen).filter(|seen| seen.width() < seen.length);
        let mut x = match tokens {
            None => self.embed.forward(pixels, plan.map(|plan| &plan.seen))?,
            Some(hidden) => {
                let token = self.mask_token.as_ref();
                let token = token.ok_or_else(|| Error::Defect("this encoder has no mask token".to_owned()))?;
                let all = token.where_self(&hidden.unsqueeze(2), &self.embed.forward(pixels, None)?);
                seen.map_or_else(|| all.shallow_clone(), |seen| seen.take(&all))
            }
        };
        let prefix = i64::from(self.class_token.is_some());
        // A crop of another size reads the table at its own places.
        let positions = self.positions.as_ref().map(|table| interpolate(table, prefix, self.grid, grid)).transpose()?;
        if let Some(table) = &positions {
            let patches = table.slice(0, prefix, None, 1);
            x = match plan {
                // A plan may read in any order (MAE keeps the order of noise), so positions are looked up.
                Some(plan) if tokens.is_none() || seen.is_some() => x + plan.seen.look_up(&patches),
                _ => x + patches.unsqueeze(0),
            };
        }
        if let Some(class_token) = &self.class_token {
            let mut front = class_token * 1.0;
            if let Some(table) = &positions {
                front += table.slice(0, 0, 1, 1).unsqueeze(0);
            }
            x = Tensor::cat(&[front.expand([rows, -1, -1], false), x], 1);
        }
        let valid = plan.and_then(|plan| plan.seen.valid.as_ref());
        let ids = plan.filter(|_| tokens.is_none() || seen.is_some()).map(|plan| &plan.seen.padded);
        let shared = if self.relative.len() == 1 { Some(self.relative[0].forward(ids)) } else { None };
        let bias = |block: usize| match (&shared, self.relative.get(block)) {
            (Some(shared), _) => Some(shared.shallow_clone()),
            (None, Some(own)) => Some(own.forward(ids)),
            (None, None) => None,
        };
        Ok(self.stack.forward(x, prefix, valid, bias, want, step.train))
    }

    fn depth(&self) -> usize {
        self.stack.depth()
    }

    fn width(&self) -> i64 {
        self.stack.width()
    }

    fn export(&self) -> Result<Export> {
        if !self.stack.has_norm() {
            return Err(Export::refuse("head.pool", "the encoder alone has no final norm"));
        }
        super::hub::export_encoder(&self.config, &self.name, self.mask_token.is_some())
    }

    fn export_classifier(&self, head: &ClassHead) -> Result<Export> {
        super::hub::export_classifier(&self.config, &self.name, head)
    }
}

#[cfg(test)]
mod pins {
    use super::*;
    use mask_core::nn::Parameters;
    use tch::Device;

    fn count(config: &VitConfig, mask_token: bool) -> u64 {
        let parameters = Parameters::new(Device::Cpu, 0);
        config.build(&parameters.root(), mask_token).unwrap();
        parameters.count().0
    }

    /// Ledger 000 BEiT and 081: parameters of the encoders, class token and 197 positions counted.
    #[test]
    fn parameters() {
        for (width, depth, heads, total) in
            [(192, 12, 3, 5_524_416), (384, 12, 6, 21_665_664), (768, 12, 12, 85_798_656)]
        {
            assert_eq!(count(&VitConfig::mae(width, depth, heads), false), total);
        }
        // Ledger 007: SimMIM's ViT-B with class token, mask token, shared bias and layer scale.
        assert_eq!(count(&VitConfig::beit(768, 12, 12), true), 85_666_128);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let config = VitConfig { image: [30, 28], patch: [4, 4], ..VitConfig::mae(16, 1, 1) };
        assert!(config.build(&Parameters::new(Device::Cpu, 0).root(), false).is_err());
    }
}
