//! Position tables.

use tch::{Kind, Tensor};

use crate::grid::Grid;
use crate::nn::scope::{InitRule, Scope};
use crate::{Error, Result};

use serde::{Deserialize, Serialize};

/// How tokens learn where they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// A fixed sine and cosine table; the class token's row is 0.
    SinCos,
    /// A trained table; the class token has a row of its own.
    Learned,
    /// No table (a relative bias may stand in).
    None,
}

impl Positions {
    /// The table [prefix + L, D], prefix rows first.
    ///
    /// # Errors
    /// A width that sines don't divide, or the name is taken.
    pub fn build(self, at: &Scope, grid: &Grid, width: i64, prefix: i64, init: InitRule) -> Result<Option<Tensor>> {
        let rows = grid.len() as i64 + prefix;
        Ok(match self {
            Self::SinCos => {
                let head = Tensor::zeros([prefix, width], (Kind::Float, tch::Device::Cpu));
                Some(at.table("positions", Tensor::cat(&[head, sin_cos(grid, width)?], 0))?)
            }
            // Exempt from decay as ViT, BEiT and iBOT have it.
            Self::Learned => Some(at.plain("positions", &[rows, width], init.token())?),
            Self::None => None,
        })
    }
}

/// The fixed table [L, D]. Each axis has an equal share of the D numbers, the fastest axis (column) first; within a
/// share come the sines, then the cosines, of position times 10000^(-i / half the share). Computed in f64.
///
/// # Errors
/// D is no multiple of twice the number of axes.
pub fn sin_cos(grid: &Grid, width: i64) -> Result<Tensor> {
    let axes = grid.dims().len();
    if width < 1 || width % (2 * axes as i64) != 0 {
        let problem = format!("a sine table over {axes} axes needs a multiple of {}, not {width}", 2 * axes);
        return Err(Error::value("width", problem));
    }
    let half = width as usize / axes / 2;
    let mut table = Vec::with_capacity(grid.len() * width as usize);
    for position in 0..grid.len() {
        for at in grid.at(position).into_iter().rev() {
            let angle = |i: usize| at as f64 * 10_000f64.powf(-(i as f64) / half as f64);
            table.extend((0..half).map(|i| angle(i).sin() as f32));
            table.extend((0..half).map(|i| angle(i).cos() as f32));
        }
    }
    Ok(Tensor::from_slice(&table).view([grid.len() as i64, width]))
}

#[cfg(test)]
mod pins {
    use super::*;

    /// Ledger 081: D = 8 on 2 x 2.
    #[test]
    fn maes_table() {
        let table = sin_cos(&Grid::plane(2, 2), 8).unwrap();
        let rows: Vec<Vec<f32>> = (0..4).map(|row| Vec::try_from(table.get(row)).unwrap()).collect();
        let close = |row: &[f32], pin: [f32; 8]| row.iter().zip(pin).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close(&rows[0], [0., 0., 1., 1., 0., 0., 1., 1.]));
        assert!(close(&rows[1], [0.841471, 0.01, 0.540302, 0.99995, 0., 0., 1., 1.]));
        assert!(close(&rows[2], [0., 0., 1., 1., 0.841471, 0.01, 0.540302, 0.99995]));
        assert!((table.get(3).square().sum(Kind::Float).double_value(&[]) - 4.0).abs() < 1e-6);
        assert!(sin_cos(&Grid::plane(2, 2), 6).is_err());
    }
}
