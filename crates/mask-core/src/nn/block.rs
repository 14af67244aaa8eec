//! Transformer blocks and a stack of them.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::attention::{Attention, QkvBias};
use super::layers::{Activation, LayerNorm, Mlp, drop_path, dropout};
use super::scope::{Init, InitRule, Scope};
use crate::method::{Features, Want};
use crate::{Error, Result};

/// Where the norm of a branch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPlace {
    /// `x + branch(norm(x))` (ViT).
    Pre,
    /// `norm(x + branch(x))` (BERT).
    Post,
}

/// What a stack of blocks is made of. Not a part of recipes by itself: encoders and predictors have these keys.
#[derive(Clone, Debug, PartialEq)]
pub struct StackConfig {
    /// Numbers of a token.
    pub width: i64,
    /// Blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: i64,
    /// Numbers in the middle of the feed-forward branch.
    pub mlp: i64,
    /// Where the norms stand.
    pub norm: NormPlace,
    /// Whether a norm follows the last block, where the norms stand in front.
    pub final_norm: bool,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Non-linearity of the feed-forward branch.
    pub activation: Activation,
    /// Which of query, key and value have a bias.
    pub qkv_bias: QkvBias,
    /// Start of the trained gain on each branch; none = no gain.
    pub layer_scale: Option<f64>,
    /// Stochastic depth of the last block; the first has none, between them it grows straight.
    pub drop_path: f64,
    /// Dropout on the branches.
    pub dropout: f64,
    /// The law of the initial weights.
    pub init: InitRule,
}

impl StackConfig {
    /// The plain pre-norm stack of ViT and MAE.
    #[must_use]
    pub fn vit(width: i64, depth: usize, heads: i64) -> Self {
        Self {
            width,
            depth,
            heads,
            mlp: 4 * width,
            norm: NormPlace::Pre,
            final_norm: true,
            norm_eps: 1e-6,
            activation: Activation::Gelu,
            qkv_bias: QkvBias::Full,
            layer_scale: None,
            drop_path: 0.0,
            dropout: 0.0,
            init: InitRule::Xavier,
        }
    }

    /// Operations of a forward over `tokens` tokens, a multiplication and an addition counted as two: maps and
    /// attention, as the papers count.
    #[must_use]
    pub fn flops(&self, tokens: f64) -> f64 {
        let (width, mlp) = (self.width as f64, self.mlp as f64);
        self.depth as f64 * tokens * (8.0 * width * width + 4.0 * width * mlp + 4.0 * tokens * width)
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// A width that the heads don't divide, a size of 0, a rate outside [0, 1).
    pub fn check(&self) -> Result<()> {
        for (key, size) in [("width", self.width), ("heads", self.heads), ("mlp", self.mlp)] {
            if !(1..=1 << 20).contains(&size) {
                return Err(Error::value(key, format!("{size} is not a size from 1 to 1048576")));
            }
        }
        if self.width % self.heads != 0 {
            let problem = format!("{} heads don't divide the width {}", self.heads, self.width);
            return Err(Error::value("heads", problem));
        }
        if self.depth > 1000 {
            return Err(Error::value("depth", format!("{} is more than 1000 blocks", self.depth)));
        }
        for (key, rate) in [("drop_path", self.drop_path), ("dropout", self.dropout)] {
            if !(0.0..1.0).contains(&rate) {
                return Err(Error::value(key, format!("{rate} is not a rate from 0 to 1 (excluded)")));
            }
        }
        if let Some(start) = self.layer_scale.filter(|start| !(*start > 0.0 && start.is_finite())) {
            let problem = format!("{start} is no start for a gain, it takes a number above 0, or null for no gain");
            return Err(Error::value("layer_scale", problem));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(Error::value("norm_eps", format!("{} is not between 0 and 1", self.norm_eps)));
        }
        Ok(())
    }
}

/// Attention and feed-forward branches on a residual stream.
#[derive(Debug)]
pub struct Block {
    norms: [LayerNorm; 2],
    attention: Attention,
    mlp: Mlp,
    gains: Option<[Tensor; 2]>,
    place: NormPlace,
    drop_path: f64,
    dropout: f64,
}

impl Block {
    /// Block number `index` (from 0) of a stack.
    ///
    /// # Errors
    /// The name is taken.
    pub fn new(at: &Scope, config: &StackConfig, index: usize) -> Result<Self> {
        let StackConfig { width, heads, mlp, init, .. } = *config;
        let laws = [init.linear(width, mlp), init.branch_end(mlp, width, index + 1)];
        let gain = |name: &str, start: f64| at.plain(name, &[width], Init::Constant(start));
        let share = if config.depth > 1 { index as f64 / (config.depth - 1) as f64 } else { 0.0 };
        Ok(Self {
            norms: [
                LayerNorm::new(&at.enter("norm1"), width, config.norm_eps)?,
                LayerNorm::new(&at.enter("norm2"), width, config.norm_eps)?,
            ],
            attention: Attention::new(&at.enter("attention"), width, heads, config.qkv_bias, init, index + 1)?,
            mlp: Mlp::new(&at.enter("mlp"), width, mlp, config.activation, laws)?,
            gains: match config.layer_scale {
                Some(start) => Some([gain("gain1", start)?, gain("gain2", start)?]),
                None => None,
            },
            place: config.norm,
            drop_path: config.drop_path * share,
            dropout: config.dropout,
        })
    }

    /// `x` [B, N, D] to the same; `bias` as in [`Attention::forward`].
    #[must_use]
    pub fn forward(&self, x: &Tensor, bias: Option<&Tensor>, train: bool) -> Tensor {
        let x = self.branch(x, 0, train, |x| self.attention.forward(x, bias));
        self.branch(&x, 1, train, |x| self.mlp.forward(x))
    }

    fn branch(&self, x: &Tensor, which: usize, train: bool, body: impl Fn(&Tensor) -> Tensor) -> Tensor {
        let norm = &self.norms[which];
        let mut y = match self.place {
            NormPlace::Pre => body(&norm.forward(x)),
            NormPlace::Post => body(x),
        };
        y = dropout(&y, self.dropout, train);
        if let Some(gains) = &self.gains {
            // Not in place: a bf16 branch times a float32 gain is float32.
            y = &y * &gains[which];
        }
        let sum = x + drop_path(&y, self.drop_path, train);
        match self.place {
            NormPlace::Pre => sum,
            NormPlace::Post => norm.forward(&sum),
        }
    }
}

/// Blocks one after another, and the final norm of a pre-norm stack.
#[derive(Debug)]
pub struct Stack {
    blocks: Vec<Block>,
    norm: Option<LayerNorm>,
    width: i64,
}

impl Stack {
    /// Blocks at layers 1 to depth and the final norm at depth + 1 in a scope at layer 0; all at the scope's layer
    /// elsewhere.
    ///
    /// # Errors
    /// A size out of range (see [`StackConfig::check`]), or the name is taken.
    pub fn new(at: &Scope, config: &StackConfig) -> Result<Self> {
        config.check()?;
        // A stack that stands behind an encoder counts as one layer, the topmost.
        let layer = |index: usize| if at.layer() == 0 { index } else { at.layer() };
        let block = |index| Block::new(&at.enter("block").enter(index).at_layer(layer(index + 1)), config, index);
        let last = at.at_layer(layer(config.depth + 1));
        Ok(Self {
            blocks: (0..config.depth).map(block).collect::<Result<_>>()?,
            norm: match config.norm {
                NormPlace::Pre if config.final_norm => {
                    Some(LayerNorm::new(&last.enter("norm"), config.width, config.norm_eps)?)
                }
                _ => None,
            },
            width: config.width,
        })
    }

    /// Blocks.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.blocks.len()
    }

    /// Numbers of a token.
    #[must_use]
    pub fn width(&self) -> i64 {
        self.width
    }

    /// Whether a norm stands behind the last block.
    #[must_use]
    pub fn has_norm(&self) -> bool {
        self.norm.is_some()
    }

    /// Runs `x` [B, prefix + T, D]. `valid` [B, T] (`true` = real) hides padding from the keys; `bias` gives the
    /// additive bias of a block, [B or 1, heads, N, N].
    #[must_use]
    pub fn forward(
        &self,
        x: Tensor,
        prefix: i64,
        valid: Option<&Tensor>,
        bias: impl Fn(usize) -> Option<Tensor>,
        want: &Want,
        train: bool,
    ) -> Features {
        let padding = valid.map(|valid| padding_bias(valid, prefix));
        let (mut x, mut layers, mut attention) = (x, Vec::new(), None);
        for (index, block) in self.blocks.iter().enumerate() {
            let bias = match (bias(index), &padding) {
                (Some(bias), Some(padding)) => Some(bias + padding),
                (Some(bias), None) => Some(bias),
                (None, padding) => padding.as_ref().map(Tensor::shallow_clone),
            };
            let last = index + 1 == self.blocks.len();
            if let (true, Some(rows)) = (last, &want.attention_of) {
                let input = match block.place {
                    NormPlace::Pre => block.norms[0].forward(&x),
                    NormPlace::Post => x.shallow_clone(),
                };
                attention = Some(block.attention.weights(&input, bias.as_ref(), rows.clone()));
            }
            x = block.forward(&x, bias.as_ref(), train);
            if !last && want.layers.contains(&(index + 1)) {
                layers.push(x.shallow_clone());
            }
        }
        layers.push(self.norm.as_ref().map_or_else(|| x.shallow_clone(), |norm| norm.forward(&x)));
        Features { layers, prefix, valid: valid.map(Tensor::shallow_clone), attention }
    }
}

/// [B, 1, 1, prefix + T]: 0 for real keys, minus infinity for padding.
fn padding_bias(valid: &Tensor, prefix: i64) -> Tensor {
    let rows = valid.size()[0];
    let always = Tensor::ones([rows, prefix], (Kind::Bool, valid.device()));
    let valid = Tensor::cat(&[&always, valid], 1).view([rows, 1, 1, -1]);
    Tensor::zeros(valid.size(), (Kind::Float, valid.device())).masked_fill(&valid.logical_not(), f64::NEG_INFINITY)
}

#[cfg(test)]
mod pins {
    use super::*;
    use crate::nn::Parameters;
    use tch::Device;

    fn stack(config: &StackConfig) -> (std::rc::Rc<Parameters>, Stack) {
        let parameters = Parameters::new(Device::Cpu, 0);
        let stack = Stack::new(&parameters.root(), config).unwrap();
        (parameters, stack)
    }

    /// Ledger 000 BEiT: a block has 12 D^2 + 13 D parameters.
    #[test]
    fn block_sizes() {
        for (width, heads, count) in [(192, 3, 444_864), (768, 12, 7_087_872)] {
            let (parameters, _) = stack(&StackConfig::vit(width, 1, heads));
            assert_eq!(parameters.count().0, count + 2 * width as u64); // and the final norm
        }
    }

    /// Padding behind a row changes nothing for its real tokens, and gaps of gain 0 make a block the identity.
    #[test]
    fn padding_is_invisible() {
        tch::manual_seed(0);
        for norm in [NormPlace::Pre, NormPlace::Post] {
            let (_parameters, stack) = stack(&StackConfig { norm, ..StackConfig::vit(16, 2, 4) });
            let x = Tensor::randn([1, 6, 16], (Kind::Float, Device::Cpu));
            let valid = Tensor::from_slice(&[true, true, true, false, false]).view([1, 5]);
            let run = |x: Tensor, valid| stack.forward(x, 1, valid, |_| None, &Want::last(), false).last().detach();
            let short = run(x.slice(1, 0, 4, 1), None);
            let long = run(x, Some(&valid)).slice(1, 0, 4, 1);
            assert!((short - long).abs().max().double_value(&[]) < 1e-6);
        }
    }

    #[test]
    fn a_gain_of_0_makes_a_block_the_identity() {
        let parameters = Parameters::new(Device::Cpu, 0);
        let config = StackConfig { layer_scale: Some(0.0), ..StackConfig::vit(16, 1, 4) };
        let block = Block::new(&parameters.root(), &config, 0).unwrap();
        let x = Tensor::randn([2, 3, 16], (Kind::Float, Device::Cpu));
        assert_eq!(block.forward(&x, None, true), x);
    }

    /// Ledger 081: ViT-L/16 on 50 tokens 30.4 G, on 197 tokens 122.8 G; the decoder 10.55 G.
    #[test]
    fn operations_of_mae() {
        let large = StackConfig::vit(1024, 24, 16);
        for (config, tokens, giga) in
            [(&large, 50.0, 30.4), (&large, 197.0, 122.8), (&StackConfig::vit(512, 8, 16), 197.0, 10.55)]
        {
            assert!((config.flops(tokens) / 1e9 / giga - 1.0).abs() < 0.003, "{}", config.flops(tokens));
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for config in [
            StackConfig::vit(10, 1, 3),
            StackConfig::vit(0, 1, 1),
            StackConfig { dropout: 1.0, ..StackConfig::vit(4, 1, 1) },
        ] {
            assert!(Stack::new(&Parameters::new(Device::Cpu, 0).root(), &config).is_err());
        }
    }
}
