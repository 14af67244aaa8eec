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
    /// The same table at first, trained: as MAE is fine-tuned.
    TrainedSinCos,
    /// A trained table; the class token has a row of its own.
    Learned,
    /// No table (a relative bias may stand in).
    None,
}

impl Positions {
    /// The table [prefix + L, D], prefix rows first; weight decay applies to a learned one where `decays` says so (iBOT,
    /// not ViT or BEiT).
    ///
    /// # Errors
    /// A width that sines don't divide, or the name is taken.
    pub fn build(
        self,
        at: &Scope,
        grid: &Grid,
        width: i64,
        prefix: i64,
        init: InitRule,
        decays: bool,
    ) -> Result<Option<Tensor>> {
        let rows = grid.len() as i64 + prefix;
        let sines = || {
            let head = Tensor::zeros([prefix, width], (Kind::Float, tch::Device::Cpu));
            Ok::<_, Error>(Tensor::cat(&[head, sin_cos(grid, width)?], 0))
        };
        let table = match self {
            Self::SinCos => Some(at.table("positions", sines()?)?),
            Self::TrainedSinCos => Some(at.plain_from("positions", sines()?)?),
            Self::Learned if decays => Some(at.weight("positions", &[rows, width], init.token())?),
            Self::Learned => Some(at.plain("positions", &[rows, width], init.token())?),
            Self::None => None,
        };
        at.over("positions", grid, prefix);
        Ok(table)
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

/// A table [prefix + L, D] of a plane `from` for a plane `to`: bicubic without aligned corners, prefix rows kept (MAE,
/// BEiT and iBOT in fine-tuning and for small crops; iBOT's official code adds 0.1 to the sides of `to` against a
/// rounding error, which moves the sampling points a little).
///
/// # Errors
/// A table that isn't that of `from`, an empty plane.
pub fn interpolate(table: &Tensor, prefix: i64, from: [i64; 2], to: [i64; 2]) -> Result<Tensor> {
    if table.dim() != 2 || table.size()[0] != prefix + from[0] * from[1] || to.iter().any(|side| *side < 1) {
        let wanted = format!("[{} + {} x {}, D]", prefix, from[0], from[1]);
        return Err(Error::shape("the position table", wanted, &table.size()));
    }
    if from == to {
        return Ok(table.shallow_clone());
    }
    let width = table.size()[1];
    let plane = table.slice(0, prefix, None, 1).view([1, from[0], from[1], width]).permute([0, 3, 1, 2]);
    let plane = plane.f_upsample_bicubic2d(to, false, None, None)?;
    let rows = plane.permute([0, 2, 3, 1]).reshape([to[0] * to[1], width]);
    Ok(Tensor::cat(&[table.slice(0, 0, prefix, 1), rows], 0))
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

    /// The figures of PyTorch's `interpolate`; the prefix is kept, the same size is the same table.
    #[test]
    fn interpolation() {
        let table = Tensor::arange(1 + 8 * 8, (Kind::Float, tch::Device::Cpu)).view([-1, 1]);
        assert_eq!(interpolate(&table, 1, [8, 8], [8, 8]).unwrap(), table);
        for (side, row, column, pin) in
            [(16, 8, 8, 34.3281), (16, 0, 0, 0.0508), (16, 15, 3, 59.1406), (6, 0, 0, 2.1354), (6, 5, 2, 58.7778)]
        {
            let other = interpolate(&table, 1, [8, 8], [side, side]).unwrap();
            assert_eq!((other.size(), other.double_value(&[0, 0])), (vec![1 + side * side, 1], 0.0));
            assert!((other.double_value(&[1 + row * side + column, 0]) - pin).abs() < 1e-4, "{side} {row} {column}");
        }
        assert!(interpolate(&table, 0, [8, 8], [4, 4]).is_err() && interpolate(&table, 1, [8, 8], [0, 4]).is_err());
    }
}
