//! Self-attention through libtorch's fused operation, and relative position bias.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::layers::{Linear, linear};
use super::scope::{Init, InitRule, Scope};
use crate::Result;
use crate::grid::Grid;

/// Which of the packed query, key and value maps have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QkvBias {
    /// All three.
    Full,
    /// Query and value: a key's bias can't change a softmax (BEiT).
    Qv,
    /// None.
    None,
}

#[derive(Debug)]
enum Bias {
    Full(Tensor),
    Qv { query: Tensor, value: Tensor },
    None,
}

/// Multi-head self-attention with one packed map for query, key and value.
#[derive(Debug)]
pub struct Attention {
    qkv: Tensor,
    bias: Bias,
    out: Linear,
    heads: i64,
}

impl Attention {
    /// Attention over tokens of `width` numbers; `block` (from 1) is the block's number, for rules that scale by it.
    ///
    /// # Errors
    /// The name is taken.
    pub fn new(at: &Scope, width: i64, heads: i64, bias: QkvBias, init: InitRule, block: usize) -> Result<Self> {
        let qkv_at = at.enter("qkv");
        // The law is that of the packed map, as the official code has it.
        let qkv = qkv_at.weight("weight", &[3 * width, width], init.linear(width, 3 * width))?;
        let bias = match bias {
            QkvBias::Full => Bias::Full(qkv_at.plain("bias", &[3 * width], Init::ZEROS)?),
            QkvBias::Qv => Bias::Qv {
                query: qkv_at.plain("query_bias", &[width], Init::ZEROS)?,
                value: qkv_at.plain("value_bias", &[width], Init::ZEROS)?,
            },
            QkvBias::None => Bias::None,
        };
        let out = Linear::new(&at.enter("out"), width, width, init.branch_end(width, width, block))?;
        Ok(Self { qkv, bias, out, heads })
    }

    /// Query, key and value of `x` [B, N, D], each [B, heads, N, D / heads].
    fn split(&self, x: &Tensor) -> [Tensor; 3] {
        let (rows, tokens) = (x.size()[0], x.size()[1]);
        let packed = match &self.bias {
            Bias::Full(bias) => linear(x, &self.qkv, Some(bias)),
            Bias::Qv { query, value } => {
                let bias = Tensor::cat(&[query, &query.zeros_like(), value], 0);
                linear(x, &self.qkv, Some(&bias))
            }
            Bias::None => linear(x, &self.qkv, None),
        };
        let packed = packed.view([rows, tokens, 3, self.heads, x.size()[2] / self.heads]).permute([2, 0, 3, 1, 4]);
        [packed.select(0, 0), packed.select(0, 1), packed.select(0, 2)]
    }

    /// `x` [B, N, D] to the same. `bias` is added to the scaled logits and broadcasts to [B, heads, N, N].
    #[must_use]
    pub fn forward(&self, x: &Tensor, bias: Option<&Tensor>) -> Tensor {
        let [query, key, value] = self.split(x);
        // A bias must have the kind of the queries, which autocast may have narrowed.
        let bias = bias.map(|bias| bias.to_kind(query.kind()));
        let mixed = Tensor::scaled_dot_product_attention(&query, &key, &value, bias, 0.0, false, None, false);
        self.out.forward(&mixed.transpose(1, 2).reshape(x.size()))
    }

    /// The attention weights of some rows (queries) over all tokens: [B, heads, rows, N].
    #[must_use]
    pub fn weights(&self, x: &Tensor, bias: Option<&Tensor>, rows: Range<i64>) -> Tensor {
        let [query, key, _] = self.split(x);
        let query = query.slice(2, rows.start, rows.end, 1);
        let scale = (query.size()[3] as f64).powf(-0.5);
        let mut logits = query.matmul(&key.transpose(2, 3)).to_kind(Kind::Float) * scale;
        if let Some(bias) = bias {
            let rows = if bias.size()[2] == 1 { 0..1 } else { rows };
            logits += bias.slice(2, rows.start, rows.end, 1);
        }
        logits.softmax(-1, Kind::Float)
    }
}

/// Whether blocks add a learned bias by relative position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelativeBiasConfig {
    /// No bias.
    None,
    /// One table for all blocks (BEiT and SimMIM in pre-training).
    Shared,
    /// A table for each block (BEiT in fine-tuning).
    PerBlock,
}

/// A learned bias for each head and each offset between two tokens of a plane, and three rows more where a class
/// token stands in front: class to any, any to class, class to class (BEiT).
#[derive(Debug)]
pub struct RelativeBias {
    table: Tensor,
    index: Tensor,
    tokens: i64,
    prefix: i64,
}

impl RelativeBias {
    /// Zeros at first.
    ///
    /// # Errors
    /// The grid isn't a plane, or the name is taken.
    pub fn new(at: &Scope, grid: &Grid, heads: i64, class_token: bool) -> Result<Self> {
        let plane = grid.as_plane()?;
        let (rows, index) = relative_index(plane, class_token);
        let prefix = i64::from(class_token);
        let tokens = grid.len() as i64 + prefix;
        // A table, which weight decay applies to in pre-training.
        let table = at.weight("table", &[rows as i64, heads], Init::ZEROS)?;
        Ok(Self { table, index: Tensor::from_slice(&index).to_device(at.device()), tokens, prefix })
    }

    /// The bias of the full sequence [1, heads, N, N]; with `seen` [B, K] (positions without the class token) that of
    /// the tokens left, [B, heads, K', K'].
    #[must_use]
    pub fn forward(&self, seen: Option<&Tensor>) -> Tensor {
        let heads = self.table.size()[1];
        let Some(seen) = seen else {
            let all = self.table.index_select(0, &self.index);
            return all.view([self.tokens, self.tokens, heads]).permute([2, 0, 1]).unsqueeze(0);
        };
        let mut at = seen + self.prefix;
        if self.prefix == 1 {
            at = Tensor::cat(&[&Tensor::zeros([seen.size()[0], 1], (Kind::Int64, seen.device())), &at], 1);
        }
        let (rows, width) = (at.size()[0], at.size()[1]);
        let pairs = at.unsqueeze(2) * self.tokens + at.unsqueeze(1);
        let index = self.index.index_select(0, &pairs.view([-1]));
        self.table.index_select(0, &index).view([rows, width, width, heads]).permute([0, 3, 1, 2])
    }
}

/// Rows of the table and the row of each pair of tokens, row-major (query, key).
fn relative_index([height, width]: [usize; 2], class_token: bool) -> (usize, Vec<i64>) {
    let offsets = (2 * height - 1) * (2 * width - 1);
    let rows = offsets + if class_token { 3 } else { 0 };
    let patch = |query: usize, key: usize| {
        let dy = query / width + height - 1 - key / width;
        let dx = query % width + width - 1 - key % width;
        dy * (2 * width - 1) + dx
    };
    let prefix = usize::from(class_token);
    let tokens = height * width + prefix;
    let pair = |query: usize, key: usize| match (query < prefix, key < prefix) {
        (true, true) => rows - 1,
        (true, false) => rows - 3,
        (false, true) => rows - 2,
        (false, false) => patch(query - prefix, key - prefix),
    };
    let index = (0..tokens).flat_map(|query| (0..tokens).map(move |key| pair(query, key) as i64)).collect();
    (rows, index)
}

#[cfg(test)]
mod pins {
    use super::*;
    use crate::nn::Parameters;
    use tch::Device;

    /// Ledger 000 BEiT: the index at 2 x 2 with a class token; 14 x 14: 732 rows, class-class 731, first to last
    /// patch 0, last to first 728.
    #[test]
    fn relative_index_is_beits() {
        let (rows, index) = relative_index([2, 2], true);
        assert_eq!(rows, 12);
        #[rustfmt::skip]
        assert_eq!(index, [
            11, 9, 9, 9, 9,
            10, 4, 3, 1, 0,
            10, 5, 4, 2, 1,
            10, 7, 6, 4, 3,
            10, 8, 7, 5, 4,
        ]);
        let (rows, index) = relative_index([14, 14], true);
        assert_eq!((rows, index[0], index[197 + 196], index[196 * 197 + 1]), (732, 731, 0, 728));
    }

    #[test]
    fn the_bias_of_some_tokens_is_a_part_of_the_whole() {
        let parameters = Parameters::new(Device::Cpu, 0);
        for class_token in [true, false] {
            let at = parameters.root().enter(class_token);
            let bias = RelativeBias::new(&at, &Grid::plane(2, 3), 2, class_token).unwrap();
            let _ = tch::no_grad(|| bias.table.detach().normal_(0.0, 1.0));
            let seen = Tensor::from_slice(&[4i64, 0, 5]).view([1, 3]);
            let full = bias.forward(None);
            let part = bias.forward(Some(&seen));
            let mut at = seen.view([-1]) + i64::from(class_token);
            if class_token {
                at = Tensor::cat(&[Tensor::from_slice(&[0i64]), at], 0);
            }
            assert_eq!(part, full.index_select(2, &at).index_select(3, &at));
        }
    }

    /// The one pair of one token was once taken for that of a class token.
    #[test]
    fn one_patch_without_class_token() {
        let parameters = Parameters::new(Device::Cpu, 0);
        let bias = RelativeBias::new(&parameters.root(), &Grid::plane(1, 1), 2, false).unwrap();
        assert_eq!(bias.forward(Some(&Tensor::from_slice(&[0i64]).view([1, 1]))).size(), [1, 2, 1, 1]);
    }

    #[test]
    fn weights_are_those_of_the_fused_operation() {
        tch::manual_seed(3);
        let parameters = Parameters::new(Device::Cpu, 1);
        let attention = Attention::new(&parameters.root(), 8, 2, QkvBias::Qv, InitRule::Xavier, 1).unwrap();
        let x = Tensor::randn([2, 5, 8], (Kind::Float, Device::Cpu));
        let bias = Tensor::randn([1, 2, 5, 5], (Kind::Float, Device::Cpu));
        let weights = attention.weights(&x, Some(&bias), 0..5);
        let [_, _, value] = attention.split(&x);
        let by_hand = attention.out.forward(&weights.matmul(&value).transpose(1, 2).reshape([2, 5, 8]));
        assert!((by_hand - attention.forward(&x, Some(&bias))).abs().max().double_value(&[]) < 1e-5);
    }
}
