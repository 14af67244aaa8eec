//! Transformer parts, and the scope in which their parameters are made.

mod attention;
mod block;
mod codebook;
mod conv;
mod decoder;
mod embed;
mod layers;
mod position;
mod projection;
mod scope;
mod transfer;

pub use attention::{Attention, QkvBias, RelativeBias, RelativeBiasConfig};
pub use block::{Block, NormPlace, Stack, StackConfig};
pub use codebook::{Codebook, CodebookConfig, Quantised};
pub use conv::{Conv, ConvConfig, ConvDecoder, ConvEncoder};
pub use decoder::{Decoder, DecoderBlocks, DecoderConfig, DecoderInput, LinearHead, Sequence};
pub use embed::{PatchEmbed, patches, unpatch};
pub use layers::{Activation, LayerNorm, Linear, Mlp, drop_path, dropout};
pub use position::{Positions as PositionTable, interpolate, sin_cos};
pub use projection::{Centre, Projection, ProjectionConfig, across_crops};
pub use scope::{Init, InitRule, Parameter, Parameters, Scope};
pub use transfer::{Transferred, transfer};
