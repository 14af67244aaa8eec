//! One position of every square cell stays visible: MAE's grid-wise ablation.

use serde::{Deserialize, Serialize};

use super::{Claims, Sampler, Site};
use crate::grid::Layout;
use crate::plan::{Draft, Plan};
use crate::schedule::Clock;
use crate::stream::Stream;
use crate::{Error, Result};

/// Recipe keys of [`Lattice`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatticeConfig {
    /// Side of a cell: 2 keeps one of four, 75 % hidden on a plane.
    pub every: usize,
}

impl Default for LatticeConfig {
    fn default() -> Self {
        Self { every: 2 }
    }
}

impl LatticeConfig {
    /// The sampler.
    ///
    /// # Errors
    /// A cell below 2, which would hide nothing.
    pub fn build(&self) -> Result<Lattice> {
        if self.every < 2 {
            return Err(Error::value("every", format!("{} hides nothing, it takes 2 or more", self.every)));
        }
        Ok(Lattice { every: self.every })
    }
}

/// Keeps the positions whose coordinates are all multiples of `every`; nothing is drawn.
pub struct Lattice {
    every: usize,
}

impl Lattice {
    fn hidden(&self, layout: &Layout) -> Result<Vec<u32>> {
        let grid = layout.grid()?;
        grid.coarse(self.every)?;
        let kept = |position: &u32| grid.at(*position as usize).iter().all(|at| at % self.every == 0);
        Ok(layout.free().into_iter().filter(|position| !kept(position)).collect())
    }
}

impl Sampler for Lattice {
    fn draft(&self, site: &Site<'_>, _: &mut Stream, _: &mut Stream) -> Result<Draft> {
        Ok(Draft::Ready(Plan::hide(site.layout, self.hidden(site.layout)?)?))
    }

    fn claims(&self, layout: &Layout, _: &Clock) -> Result<Claims> {
        let hidden = self.hidden(layout)?.len();
        Ok(Claims { hidden: hidden..=hidden, every_position: false })
    }
}

#[cfg(test)]
mod pins {
    use super::*;
    use crate::grid::Grid;

    #[test]
    fn one_of_four_stays() {
        let lattice = LatticeConfig::default().build().unwrap();
        let layout = Layout::single(Grid::plane(4, 4));
        let plan = Plan::hide(&layout, lattice.hidden(&layout).unwrap()).unwrap();
        assert_eq!(plan.seen, [0, 2, 8, 10]);
        assert!(lattice.hidden(&Layout::single(Grid::plane(7, 7))).is_err());
    }
}
