//! Positions without replacement, an exact count: MAE's random masking and SimMIM's cells.

use serde::{Deserialize, Serialize};

use super::{Claims, Ratio, Rounding, Sampler, Site};
use crate::Result;
use crate::grid::Layout;
use crate::plan::{Draft, Plan};
use crate::schedule::Clock;
use crate::stream::Stream;

/// Recipe keys of [`Uniform`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UniformConfig {
    /// Share hidden.
    pub ratio: Ratio,
    /// How the share becomes a whole number.
    pub rounding: Rounding,
    /// Side of a square cell, in tokens, that is hidden or visible as one (SimMIM: 32 pixels / patch).
    pub cell: usize,
}

impl Default for UniformConfig {
    /// MAE: 75 %, single patches.
    fn default() -> Self {
        Self { ratio: Ratio::Fixed(0.75), rounding: Rounding::KeepFloor, cell: 1 }
    }
}

impl UniformConfig {
    /// The sampler.
    ///
    /// # Errors
    /// A share outside 0 to 1, or a cell of 0.
    pub fn build(&self) -> Result<Uniform> {
        self.ratio.check()?;
        if self.cell == 0 {
            return Err(crate::Error::value("cell", "a cell has at least one token along each side"));
        }
        Ok(Uniform(self.clone()))
    }
}

/// Hides an exact number of cells, drawn without replacement: noise for each cell, those of the smallest stay
/// visible, a tie goes to the lower cell (MAE `random_masking`; SimMIM `MaskGenerator`).
pub struct Uniform(UniformConfig);

impl Uniform {
    /// Cells that may be hidden, as lists of positions.
    fn cells(&self, layout: &Layout) -> Result<Vec<Vec<u32>>> {
        if self.0.cell == 1 {
            return Ok(layout.free().into_iter().map(|position| vec![position]).collect());
        }
        let grid = layout.grid()?;
        let coarse = grid.coarse(self.0.cell)?;
        let mut cells = vec![Vec::new(); coarse.len()];
        let free = layout.free();
        for &position in &free {
            let at = grid.at(position as usize);
            let cell = at.iter().zip(coarse.dims()).fold(0, |index, (at, dim)| index * dim + at / self.0.cell);
            cells[cell].push(position);
        }
        cells.retain(|cell| !cell.is_empty());
        Ok(cells)
    }
}

impl Sampler for Uniform {
    fn draft(&self, site: &Site<'_>, sample: &mut Stream, step: &mut Stream) -> Result<Draft> {
        let Uniform(UniformConfig { ratio, rounding, cell }) = self;
        if *cell == 1 && site.layout.fixed().is_empty() {
            // The common case, without a list of cells: as below, to the bit.
            let hidden = ratio.hidden(site.layout.len(), *rounding, site.clock, sample, step);
            let noise = sample.noise(site.layout.len());
            return Ok(Draft::Ready(Plan::keep_lowest(&noise, noise.len() - hidden)));
        }
        let cells = self.cells(site.layout)?;
        let hidden = ratio.hidden(cells.len(), *rounding, site.clock, sample, step);
        let order = Plan::keep_lowest(&sample.noise(cells.len()), cells.len() - hidden);
        let positions = order.hidden.iter().flat_map(|cell| cells[*cell as usize].iter().copied()).collect();
        Ok(Draft::Ready(Plan::hide(site.layout, positions)?))
    }

    fn claims(&self, layout: &Layout, clock: &Clock) -> Result<Claims> {
        let cells = self.cells(layout)?;
        let [low, high] = self.0.ratio.range(cells.len(), self.0.rounding, clock);
        let mut sizes: Vec<usize> = cells.iter().map(Vec::len).collect();
        sizes.sort_unstable();
        let smallest = sizes.iter().take(low).sum();
        let largest = sizes.iter().rev().take(high).sum();
        let [low, high] = self.0.ratio.usual(cells.len(), self.0.rounding, clock);
        Ok(Claims { hidden: smallest..=largest, every_position: low < cells.len() && high > 0 })
    }
}

#[cfg(test)]
mod pins {
    use super::*;
    use crate::grid::Grid;
    use crate::sampler::{Moment, Row, draw};

    fn draws(config: &UniformConfig, grid: Grid, count: u64) -> Vec<Vec<bool>> {
        let layout = Layout::single(grid);
        let rows: Vec<Row> =
            (0..count).map(|id| Row { id, layout: layout.clone(), hints: Default::default() }).collect();
        let clock = Clock::at(0, 1, 1);
        let state = Default::default();
        let moment = Moment { seed: 3, clock: &clock, state: &state };
        let drafts = draw(&config.build().unwrap(), &rows, 0, &moment).unwrap();
        drafts
            .into_iter()
            .map(|draft| match draft {
                Draft::Ready(plan) => plan.mask(layout.len()),
                Draft::Open { .. } => panic!("a uniform draft is never open"),
            })
            .collect()
    }

    /// Ledger 007: every s x s cell is constant; (192, 32, 0.6) hides 22 cells = 1408 of 2304 tokens at patch 4.
    #[test]
    fn simmims_cells() {
        let config = UniformConfig { ratio: Ratio::Fixed(0.6), rounding: Rounding::HideCeil, cell: 8 };
        for mask in draws(&config, Grid::plane(48, 48), 5) {
            assert_eq!(mask.iter().filter(|hidden| **hidden).count(), 1408);
            for position in 0..2304 {
                let corner = (position / 48 / 8 * 8) * 48 + position % 48 / 8 * 8;
                assert_eq!(mask[position], mask[corner]);
            }
        }
    }

    /// Each position is hidden in the share of draws that the ratio says.
    #[test]
    fn positions_are_equally_likely() {
        let masks = draws(&UniformConfig::default(), Grid::plane(7, 7), 4000);
        for position in 0..49 {
            let share = masks.iter().filter(|mask| mask[position]).count() as f64 / 4000.0;
            assert!((share - 37.0 / 49.0).abs() < 0.03, "{position}: {share}"); // 4.4 standard deviations
        }
    }
}
