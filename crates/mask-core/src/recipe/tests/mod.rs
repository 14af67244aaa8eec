//! A made-up recipe with parts inside parts, for the tests beside this file.

mod errors;
mod layers;

use serde::{Deserialize, Serialize};

use super::Tree;
use crate::{Error, tagged};

/// Keys of a uniform mask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UniformConfig {
    ratio: RatioConfig,
    least: Option<u32>,
}
impl Default for UniformConfig {
    fn default() -> Self {
        Self { ratio: RatioConfig::Linear(LinearConfig { from: 0.3, to: 0.8 }), least: None }
    }
}

/// Keys of a block mask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockConfig {
    smallest: u64,
    aspect: [f64; 2],
}
impl Default for BlockConfig {
    fn default() -> Self {
        Self { smallest: 16, aspect: [0.3, 3.3] }
    }
}

/// Keys of a grid mask: none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GridConfig {}

/// Keys of a fixed ratio.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedConfig {
    value: f64,
}

/// Keys of a linear ratio.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinearConfig {
    from: f64,
    to: f64,
}

/// Keys of several masks in turn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TurnsConfig {
    masks: Vec<MaskConfig>,
}

tagged! {
    /// Which tokens are hidden.
    #[derive(PartialEq)]
    pub enum MaskConfig {
        /// Every token alike.
        ///
        /// More about it.
        uniform => Uniform(UniformConfig),
        /// Blocks of tokens.
        block => Block(BlockConfig),
        /// Every second token.
        grid => Grid(GridConfig),
        /// Several masks in turn.
        turns => Turns(TurnsConfig),
    }
}

tagged! {
    /// A share over training.
    #[derive(PartialEq)]
    pub enum RatioConfig {
        /// Always the same.
        fixed => Fixed(FixedConfig),
        /// From one to another.
        linear => Linear(LinearConfig),
    }
    number: fixed.value
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Decay {
    Cosine,
    Linear,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TrainConfig {
    steps: u64,
    rate: f64,
    decay: Decay,
    keep: u8,
    shuffle: bool,
    name: String,
    clip: Option<f64>,
}
impl Default for TrainConfig {
    fn default() -> Self {
        let name = "run".to_owned();
        Self { steps: 2000, rate: 1e-3, decay: Decay::Cosine, keep: 3, shuffle: true, name, clip: None }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MethodConfig {
    width: u64,
    mask: MaskConfig,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    seed: u64,
    method: MethodConfig,
    train: TrainConfig,
}

/// Writes the files, reads `main.yaml` over the defaults; the folder's name is taken off the error.
fn read_with(files: &[(&str, &str)], sets: &[&str]) -> Result<Recipe, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let read = || {
        let mut tree = Tree::load(folder.path().join("main.yaml"))?;
        for option in sets {
            tree.set(option)?;
        }
        tree.over(serde_yaml::to_value(Recipe::default()).unwrap());
        tree.typed::<Recipe>(&[])
    };
    read().map_err(|error: Error| {
        assert_eq!(error.exit_code(), 2);
        error.to_string().replace(&format!("{}/", folder.path().display()), "")
    })
}

fn error(text: &str) -> String {
    read_with(&[("main.yaml", text)], &[]).unwrap_err()
}

fn good(text: &str) -> Recipe {
    read_with(&[("main.yaml", text)], &[]).unwrap()
}
