//! Where the parameters of our ViT stand on the Hub and in official checkpoints.

use mask_core::hub::Names;
use mask_core::nn::{PositionTable, QkvBias, RelativeBiasConfig};

use crate::model::VitConfig;

/// Names of one layer of the Hub's vision transformers, which encoder and decoder share.
pub(super) fn layer(names: Names, ours: &str, theirs: &str, qkv_bias: bool) -> Names {
    let names = packed(names, ours, theirs, "weight");
    let names = if qkv_bias { packed(names, ours, theirs, "bias") } else { names };
    branches(names, ours, theirs)
}

fn packed(names: Names, ours: &str, theirs: &str, part: &str) -> Names {
    let [q, k, v] = ["query", "key", "value"].map(|which| format!("{theirs}.attention.attention.{which}.{part}"));
    names.packed(&format!("{ours}.attention.qkv.{part}"), [&q, &k, &v])
}

fn branches(names: Names, ours: &str, theirs: &str) -> Names {
    names
        .pair(&format!("{ours}.attention.out"), &format!("{theirs}.attention.output.dense"))
        .pair(&format!("{ours}.mlp.up"), &format!("{theirs}.intermediate.dense"))
        .pair(&format!("{ours}.mlp.down"), &format!("{theirs}.output.dense"))
        .pair(&format!("{ours}.norm1"), &format!("{theirs}.layernorm_before"))
        .pair(&format!("{ours}.norm2"), &format!("{theirs}.layernorm_after"))
}

/// Query and value bias where there is no key bias: two of our own, or a packed one whose key is 0.
fn query_and_value(names: Names, ours: &str, kind: QkvBias, [query, value]: [&str; 2]) -> Names {
    let at = format!("{ours}.attention.qkv");
    match kind {
        QkvBias::Qv => names.same(&format!("{at}.query_bias"), query).same(&format!("{at}.value_bias"), value),
        QkvBias::Full => names.packed_without_key(&format!("{at}.bias"), [query, value]),
        QkvBias::None => names,
    }
}

/// Names of an encoder on the Hub.
pub(super) struct Place<'a> {
    /// Its scope here.
    pub ours: &'a str,
    /// Its scope there: `vit.`, `beit.`, `ijepa.`, or nothing in a folder of the bare model.
    pub theirs: &'a str,
    /// The final norm there.
    pub norm: &'a str,
    /// Where the final norm lies here, if not in the encoder's scope.
    pub norm_here: Option<&'a str>,
    /// Whether the mask token is there.
    pub mask_token: bool,
}

impl<'a> Place<'a> {
    /// The usual place of an encoder below `theirs`.
    pub(super) fn of(ours: &'a str, theirs: &'a str, norm: &'a str) -> Self {
        Self { ours, theirs, norm, norm_here: None, mask_token: false }
    }

    fn outside(&self, config: &VitConfig) -> Names {
        let Self { ours, theirs, norm, norm_here, mask_token } = self;
        let own = format!("{ours}.norm");
        let there = format!("{theirs}embeddings");
        let mut names = Names::new()
            .pair(&format!("{ours}.patch"), &format!("{there}.patch_embeddings.projection"))
            .pair(norm_here.unwrap_or(&own), norm);
        if config.class_token {
            names = names.same(&format!("{ours}.class_token"), &format!("{there}.cls_token"));
        }
        if config.positions != PositionTable::None {
            names = names.padded(&format!("{ours}.positions"), &format!("{there}.position_embeddings"), [1, 0]);
        }
        if *mask_token {
            names = names.same(&format!("{ours}.mask_token"), &format!("{there}.mask_token"));
        }
        names
    }

    /// As `vit`, `vit_mae` and `ijepa` have it.
    pub(super) fn plain(&self, config: &VitConfig) -> Names {
        (0..config.depth).fold(self.outside(config), |names, block| {
            let (ours, theirs) =
                (format!("{}.block.{block}", self.ours), format!("{}encoder.layer.{block}", self.theirs));
            layer(names, &ours, &theirs, config.qkv_bias == QkvBias::Full)
        })
    }

    /// As `beit` has it: no key bias, gains, relative bias.
    pub(super) fn beit(&self, config: &VitConfig) -> Names {
        const TABLE: &str = "relative_position_bias.relative_position_bias_table";
        let mut names = self.outside(config).ignore_ending("relative_position_index");
        if config.relative_bias == RelativeBiasConfig::Shared {
            names = names.same(&format!("{}.relative.table", self.ours), &format!("{}encoder.{TABLE}", self.theirs));
        }
        for block in 0..config.depth {
            let (ours, theirs) =
                (format!("{}.block.{block}", self.ours), format!("{}encoder.layer.{block}", self.theirs));
            names = branches(packed(names, &ours, &theirs, "weight"), &ours, &theirs);
            let [query, value] = ["query", "value"].map(|which| format!("{theirs}.attention.attention.{which}.bias"));
            names = query_and_value(names, &ours, config.qkv_bias, [&query, &value]);
            if config.layer_scale.is_some() {
                names = names
                    .same(&format!("{ours}.gain1"), &format!("{theirs}.lambda_1"))
                    .same(&format!("{ours}.gain2"), &format!("{theirs}.lambda_2"));
            }
            if config.relative_bias == RelativeBiasConfig::PerBlock {
                let table = format!("{theirs}.attention.attention.{TABLE}");
                names = names.same(&format!("{ours}.relative.table"), &table);
            }
        }
        names
    }
}

/// Names of blocks in the way of timm, which all the papers' repositories have taken over.
pub(super) fn official_blocks(mut names: Names, ours: &str, theirs: &str, config: &VitConfig, depth: usize) -> Names {
    for block in 0..depth {
        let (ours, theirs) = (format!("{ours}.block.{block}"), format!("{theirs}.{block}"));
        names = names
            .same(&format!("{ours}.attention.qkv.weight"), &format!("{theirs}.attn.qkv.weight"))
            .pair(&format!("{ours}.attention.out"), &format!("{theirs}.attn.proj"))
            .pair(&format!("{ours}.mlp.up"), &format!("{theirs}.mlp.fc1"))
            .pair(&format!("{ours}.mlp.down"), &format!("{theirs}.mlp.fc2"))
            .pair(&format!("{ours}.norm1"), &format!("{theirs}.norm1"))
            .pair(&format!("{ours}.norm2"), &format!("{theirs}.norm2"));
        if config.qkv_bias == QkvBias::Full {
            names = names.same(&format!("{ours}.attention.qkv.bias"), &format!("{theirs}.attn.qkv.bias"));
        } else {
            let [query, value] = ["q_bias", "v_bias"].map(|which| format!("{theirs}.attn.{which}"));
            names = query_and_value(names, &ours, config.qkv_bias, [&query, &value]);
        }
        if config.layer_scale.is_some() {
            names = names
                .same(&format!("{ours}.gain1"), &format!("{theirs}.gamma_1"))
                .same(&format!("{ours}.gain2"), &format!("{theirs}.gamma_2"));
        }
        if config.relative_bias == RelativeBiasConfig::PerBlock {
            let table = format!("{theirs}.attn.relative_position_bias_table");
            names = names.same(&format!("{ours}.relative.table"), &table);
        }
    }
    names
}

/// Names of an encoder in the way of timm; `norm` is its final norm there.
pub(super) fn official_encoder(config: &VitConfig, norm: &str, mask_token: bool) -> Names {
    let mut names = Names::new()
        .pair("encoder.patch", "patch_embed.proj")
        .pair("encoder.norm", norm)
        .ignore_ending("relative_position_index");
    if config.class_token {
        names = names.same("encoder.class_token", "cls_token");
    }
    if config.positions != PositionTable::None {
        names = names.padded("encoder.positions", "pos_embed", [1, 0]);
    }
    if mask_token {
        names = names.same("encoder.mask_token", "mask_token");
    }
    if config.relative_bias == RelativeBiasConfig::Shared {
        names = names.same("encoder.relative.table", "rel_pos_bias.relative_position_bias_table");
    }
    official_blocks(names, "encoder", "blocks", config, config.depth)
}
