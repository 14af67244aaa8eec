//! Predictors: a linear head, and a narrow transformer with mask tokens.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::block::{Stack, StackConfig};
use super::layers::Linear;
use super::position::Positions;
use super::scope::{Init, InitRule, Scope};
use crate::grid::Grid;
use crate::method::{Features, Predictor, Step, Want};
use crate::plan::{DevicePlan, Ids};
use crate::{Error, Result};

/// A linear map of the encoder's tokens at queried positions, which the encoder must have read (SimMIM, BEiT).
#[derive(Debug)]
pub struct LinearHead(Linear);

impl LinearHead {
    /// `width` numbers of the encoder to `out` of the target.
    ///
    /// # Errors
    /// The name is taken.
    pub fn new(at: &Scope, width: i64, out: i64, init: InitRule) -> Result<Self> {
        Ok(Self(Linear::new(at, width, out, init.linear(width, out))?))
    }

    /// The same with the law of a convolution that nobody initialises: weight and bias uniform within
    /// 1 / sqrt(`width`) (SimMIM's head).
    ///
    /// # Errors
    /// The name is taken.
    pub fn like_convolution(at: &Scope, width: i64, out: i64) -> Result<Self> {
        let law = Init::Uniform(1.0 / (width as f64).sqrt());
        let weight = at.weight("weight", &[out, width], law)?;
        Ok(Self(Linear { weight, bias: Some(at.plain("bias", &[out], law)?) }))
    }
}

impl Predictor for LinearHead {
    fn answer(&self, from: &Features, plan: &DevicePlan, group: usize, _: &Step<'_>) -> Result<Tensor> {
        let query = plan.query(group)?;
        if query.fresh.width() > 0 {
            let found = [query.fresh.rows(), query.fresh.width()];
            return Err(Error::shape(
                "what the encoder has not read",
                "no position: a linear head reads it all",
                &found,
            ));
        }
        Ok(self.0.forward(&query.take(&from.tokens())))
    }
}

/// Recipe keys of [`Decoder`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Numbers of a token.
    pub width: i64,
    /// Blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: i64,
    /// Numbers in the middle of the feed-forward branch.
    pub mlp: i64,
    /// Epsilon of the norms.
    pub norm_eps: f64,
}

impl DecoderConfig {
    /// A decoder with the usual feed-forward branch.
    #[must_use]
    pub fn new(width: i64, depth: usize, heads: i64) -> Self {
        Self { width, depth, heads, mlp: 4 * width, norm_eps: 1e-6 }
    }

    /// What the blocks are made of: these sizes, the rest as in the encoder's `base`, without its regularisation.
    #[must_use]
    pub fn stack(&self, base: &StackConfig) -> StackConfig {
        let Self { width, depth, heads, mlp, norm_eps } = *self;
        StackConfig { width, depth, heads, mlp, norm_eps, drop_path: 0.0, dropout: 0.0, ..base.clone() }
    }
}

impl Default for DecoderConfig {
    /// MAE: 512 x 8, 16 heads.
    fn default() -> Self {
        Self::new(512, 8, 16)
    }
}

/// What a decoder reads: the encoder's tokens, mapped to its width, and one shared mask token at every queried place
/// that was not seen, each with its own fixed sine position. Several decoders may read the same (HPM).
#[derive(Debug)]
pub struct DecoderInput {
    embed: Linear,
    mask_token: Tensor,
    positions: Option<Tensor>,
    prefix: i64,
}

/// A decoder's sequence [B, prefix + K seen + K fresh, W], and which of its tokens behind the prefix are real.
#[derive(Debug)]
pub struct Sequence {
    tokens: Tensor,
    valid: Option<Tensor>,
    prefix: i64,
}

impl DecoderInput {
    /// From an encoder of `from` numbers a token with `prefix` tokens in front to `width` numbers.
    ///
    /// # Errors
    /// A width that sines don't divide, or the name is taken.
    pub fn new(at: &Scope, width: i64, init: InitRule, grid: &Grid, from: i64, prefix: i64) -> Result<Self> {
        Ok(Self {
            embed: Linear::new(&at.enter("embed"), from, width, init.linear(from, width))?,
            mask_token: at.weight("mask_token", &[1, 1, width], init.token())?,
            positions: Positions::SinCos.build(at, grid, width, prefix, init, false)?,
            prefix,
        })
    }

    /// The sequence for one group of queries.
    ///
    /// # Errors
    /// The plan has no such group.
    pub fn sequence(&self, from: &Features, plan: &DevicePlan, group: usize) -> Result<Sequence> {
        let query = plan.query(group)?;
        let mut x = self.embed.forward(from.last()); // [B, prefix + K seen, W]
        let rows = x.size()[0];
        let asked = match &self.positions {
            Some(table) => {
                let prefix = table.slice(0, 0, self.prefix, 1).unsqueeze(0).expand([rows, -1, -1], false);
                let table = table.slice(0, self.prefix, None, 1);
                // Not in place: under autocast the tokens are bf16, and the sum is to be float32.
                x = &x + Tensor::cat(&[prefix, plan.seen.look_up(&table)], 1);
                &self.mask_token + query.fresh.look_up(&table)
            }
            None => self.mask_token.expand([rows, query.fresh.width(), -1], false),
        };
        let valid = join_valid(&plan.seen, &query.fresh);
        Ok(Sequence { tokens: Tensor::cat(&[x, asked], 1), valid, prefix: self.prefix })
    }
}

/// The blocks of a decoder and its head.
#[derive(Debug)]
pub struct DecoderBlocks {
    stack: Stack,
    head: Linear,
}

impl DecoderBlocks {
    /// Blocks as `config` says, the rest as in the encoder's `base`, and a map to `out` numbers.
    ///
    /// # Errors
    /// A size out of range, or the name is taken.
    pub fn new(at: &Scope, config: &DecoderConfig, base: &StackConfig, out: i64) -> Result<Self> {
        let stack = config.stack(base);
        stack.check()?;
        let law = base.init.linear(config.width, out);
        Ok(Self { stack: Stack::new(at, &stack)?, head: Linear::new(&at.enter("head"), config.width, out, law)? })
    }

    /// Answers for one group of queries of the sequence's plan, [N queried, P]: they see all of it.
    ///
    /// # Errors
    /// The plan has no such group.
    pub fn answer(&self, of: &Sequence, plan: &DevicePlan, group: usize, step: &Step<'_>) -> Result<Tensor> {
        let (tokens, valid) = (of.tokens.shallow_clone(), of.valid.as_ref());
        let out = self.stack.forward(tokens, of.prefix, valid, |_| None, &Want::last(), step.train);
        Ok(self.head.forward(&plan.query(group)?.take(&out.tokens())))
    }
}

/// MAE's decoder. A group's queries see the encoder's tokens and each other.
#[derive(Debug)]
pub struct Decoder {
    /// What it reads.
    pub input: DecoderInput,
    /// What makes answers of it.
    pub blocks: DecoderBlocks,
}

impl Decoder {
    /// From an encoder of `from` numbers a token with `prefix` tokens in front to `out` numbers of the target.
    ///
    /// # Errors
    /// A size out of range, or the name is taken.
    pub fn new(
        at: &Scope,
        config: &DecoderConfig,
        base: &StackConfig,
        grid: &Grid,
        from: i64,
        prefix: i64,
        out: i64,
    ) -> Result<Self> {
        config.stack(base).check()?;
        Ok(Self {
            input: DecoderInput::new(at, config.width, base.init, grid, from, prefix)?,
            blocks: DecoderBlocks::new(at, config, base, out)?,
        })
    }
}

impl Predictor for Decoder {
    fn answer(&self, from: &Features, plan: &DevicePlan, group: usize, step: &Step<'_>) -> Result<Tensor> {
        self.blocks.answer(&self.input.sequence(from, plan, group)?, plan, group, step)
    }
}

/// Which entries of two padded sets one after another are real; none = all.
fn join_valid(a: &Ids, b: &Ids) -> Option<Tensor> {
    let real = |ids: &Ids| match &ids.valid {
        Some(valid) => valid.shallow_clone(),
        None => Tensor::ones([ids.rows(), ids.width()], (Kind::Bool, ids.padded.device())),
    };
    (a.valid.is_some() || b.valid.is_some()).then(|| Tensor::cat(&[real(a), real(b)], 1))
}
