//! How much happens at each position of a picture.

use ndarray::ArrayViewD;

/// The mean size of the gradient (differences to the next pixel right and below, over all channels) in each cell of a
/// grid [rows, columns] that divides a picture [C, H, W]: `[rows * columns]`, row by row.
pub(super) fn gradients(pixels: &ArrayViewD<'_, f32>, grid: [usize; 2]) -> Option<Vec<f32>> {
    let &[channels, height, width] = pixels.shape() else { return None };
    let [rows, columns] = grid;
    if rows == 0 || columns == 0 || height % rows != 0 || width % columns != 0 {
        return None;
    }
    let (tall, wide) = (height / rows, width / columns);
    let mut sums = vec![0.0; rows * columns];
    for channel in 0..channels {
        for y in 0..height {
            for x in 0..width {
                let here = pixels[[channel, y, x]];
                let next = |down: usize, across: usize| match (y + down < height, x + across < width) {
                    (true, true) => pixels[[channel, y + down, x + across]] - here,
                    _ => 0.0, // nothing lies beyond the edge
                };
                sums[y / tall * columns + x / wide] += next(1, 0).hypot(next(0, 1));
            }
        }
    }
    let values = (channels * tall * wide) as f32;
    Some(sums.into_iter().map(|sum| sum / values).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array3;

    #[test]
    fn an_edge_is_where_it_is() {
        // 4 x 4 pixels, the right half bright: the step lies in the second column, the last one of the left cells.
        let picture = Array3::from_shape_fn((1, 4, 4), |(_, _, x)| if x < 2 { 0.0 } else { 3.0 });
        let found = gradients(&picture.view().into_dyn(), [2, 2]).unwrap();
        assert_eq!(found, [1.5, 0.0, 1.5, 0.0]);
        assert_eq!(gradients(&picture.view().into_dyn(), [3, 2]), None);
    }
}
