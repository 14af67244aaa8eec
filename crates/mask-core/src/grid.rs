//! The shape of a view's tokens.

use crate::{Error, Result};

/// The shape of a view's tokens, row-major: 1-D (text, speech frames), 2-D (patches: height, width), 3-D (tubelets:
/// time, height, width).
/// ```
/// let grid = mask_core::Grid::plane(2, 3);
/// assert_eq!((grid.len(), grid.at(4)), (6, vec![1, 1]));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grid(Vec<usize>);

impl Grid {
    /// A grid of one to three dimensions.
    ///
    /// # Errors
    /// No dimension, more than three, one that is 0, or more than 2^31 tokens.
    pub fn new(dims: &[usize]) -> Result<Self> {
        let len = dims.iter().try_fold(1usize, |len, &dim| len.checked_mul(dim));
        if dims.is_empty() || dims.len() > 3 || len.is_none_or(|len| len == 0 || len > 1 << 31) {
            return Err(Error::value("grid", format!("{dims:?} is not a grid of 1 to 3 dimensions, each at least 1")));
        }
        Ok(Self(dims.to_vec()))
    }

    /// A row of tokens; a length of 0 counts as 1.
    #[must_use]
    pub fn line(length: usize) -> Self {
        Self(vec![length.max(1)])
    }

    /// Patches in rows and columns; 0 counts as 1.
    #[must_use]
    pub fn plane(height: usize, width: usize) -> Self {
        Self(vec![height.max(1), width.max(1)])
    }

    /// Tubelets in time, rows and columns; 0 counts as 1.
    #[must_use]
    pub fn volume(time: usize, height: usize, width: usize) -> Self {
        Self(vec![time.max(1), height.max(1), width.max(1)])
    }

    /// The dimensions.
    #[must_use]
    pub fn dims(&self) -> &[usize] {
        &self.0
    }

    /// The number of tokens, at least 1.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a grid is never empty")]
    pub fn len(&self) -> usize {
        self.0.iter().product()
    }

    /// The coordinates of a position.
    #[must_use]
    pub fn at(&self, position: usize) -> Vec<usize> {
        let mut rest = position;
        let mut coordinates = vec![0; self.0.len()];
        for (coordinate, &dim) in coordinates.iter_mut().zip(&self.0).rev() {
            *coordinate = rest % dim;
            rest /= dim;
        }
        coordinates
    }

    /// Height and width.
    ///
    /// # Errors
    /// The grid isn't 2-D.
    pub fn as_plane(&self) -> Result<[usize; 2]> {
        self.0.as_slice().try_into().map_err(|_| {
            Error::value(
                "grid",
                format!("this part works on a 2-D grid, and this one is {}-D: {:?}", self.0.len(), self.0),
            )
        })
    }

    /// This grid in cells of `cell` tokens along each dimension.
    ///
    /// # Errors
    /// A dimension isn't a multiple of the cell.
    pub fn coarse(&self, cell: usize) -> Result<Self> {
        if cell == 0 || self.0.iter().any(|dim| dim % cell != 0) {
            return Err(Error::value("cell", format!("a cell of {cell} tokens doesn't divide the grid {:?}", self.0)));
        }
        Ok(Self(self.0.iter().map(|dim| dim / cell).collect()))
    }
}

/// Which positions a view has: one or more grids one after another, and which of them may be hidden at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    segments: Vec<(String, Grid)>,
    fixed: Vec<u32>,
}

impl Layout {
    /// One grid, every position of which may be hidden.
    #[must_use]
    pub fn single(grid: Grid) -> Self {
        Self { segments: vec![(String::new(), grid)], fixed: Vec::new() }
    }

    /// Several grids (one a modality), one after another.
    ///
    /// # Errors
    /// No segment.
    pub fn several(segments: Vec<(String, Grid)>) -> Result<Self> {
        if segments.is_empty() {
            return Err(Error::value("layout", "a view needs at least one grid"));
        }
        Ok(Self { segments, fixed: Vec::new() })
    }

    /// The same layout, in which `positions` (padding, special tokens) are never hidden.
    ///
    /// # Errors
    /// A position outside.
    pub fn with_fixed(mut self, mut positions: Vec<u32>) -> Result<Self> {
        positions.sort_unstable();
        positions.dedup();
        if let Some(&position) = positions.iter().find(|&&position| position as usize >= self.len()) {
            return Err(Error::value("layout", format!("position {position} lies outside the {} tokens", self.len())));
        }
        self.fixed = positions;
        Ok(self)
    }

    /// The number of positions.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a layout is never empty")]
    pub fn len(&self) -> usize {
        self.segments.iter().map(|(_, grid)| grid.len()).sum()
    }

    /// The grids with their names.
    #[must_use]
    pub fn segments(&self) -> &[(String, Grid)] {
        &self.segments
    }

    /// The only grid.
    ///
    /// # Errors
    /// There are several.
    pub fn grid(&self) -> Result<&Grid> {
        match self.segments.as_slice() {
            [(_, grid)] => Ok(grid),
            several => Err(Error::value(
                "layout",
                format!("this part works on a view of one grid, and this one has {}", several.len()),
            )),
        }
    }

    /// Positions that are never hidden, ascending.
    #[must_use]
    pub fn fixed(&self) -> &[u32] {
        &self.fixed
    }

    /// Positions that may be hidden, ascending.
    #[must_use]
    pub fn free(&self) -> Vec<u32> {
        let mut fixed = self.fixed.iter().peekable();
        (0..self.len() as u32).filter(|position| fixed.next_if(|f| *f == position).is_none()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_row_major() {
        let grid = Grid::volume(2, 3, 4);
        assert_eq!(grid.len(), 24);
        assert_eq!(grid.at(0), [0, 0, 0]);
        assert_eq!(grid.at(5), [0, 1, 1]);
        assert_eq!(grid.at(23), [1, 2, 3]);
    }

    #[test]
    fn impossible_grids_are_refused() {
        for dims in [&[][..], &[0], &[1, 2, 3, 4], &[usize::MAX, 2]] {
            assert!(Grid::new(dims).is_err(), "{dims:?}");
        }
        assert!(Grid::plane(7, 7).coarse(2).is_err());
        assert_eq!(Grid::plane(8, 4).coarse(2).unwrap(), Grid::plane(4, 2));
    }

    #[test]
    fn fixed_positions_are_not_free() {
        let layout = Layout::single(Grid::line(5)).with_fixed(vec![4, 0, 4]).unwrap();
        assert_eq!(layout.free(), [1, 2, 3]);
        assert!(Layout::single(Grid::line(5)).with_fixed(vec![5]).is_err());
    }
}
