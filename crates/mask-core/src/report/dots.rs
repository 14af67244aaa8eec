//! Dots with intervals as SVG: one row an arm.

use std::fmt::Write;

use super::axis::{self, Axis};
use super::svg::{self, STYLE, fitted, text_width};

const WIDTH: f64 = 480.0;
const ROW: f64 = 26.0;
/// Room right of the plot, for half of the last tick's label.
const RIGHT: f64 = 24.0;
/// The most of the width that labels take.
const LABELS: f64 = 190.0;

/// One row of a [`DotChart`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DotRow {
    /// What was measured.
    pub label: String,
    /// A dot each; one that is not finite is left out.
    pub values: Vec<f64>,
    /// A stroke across the row.
    pub mean: Option<f64>,
    /// A line along the row.
    pub interval: Option<[f64; 2]>,
}

/// Values with their mean and its interval, a row an arm, drawn as SVG that follows the reader's light or dark colours.
/// ```
/// # use mask_core::report::{DotChart, DotRow};
/// let row = DotRow { label: "75 %".into(), values: vec![77.9, 78.4], mean: Some(78.15), interval: Some([77.0, 79.3]) };
/// let svg = DotChart { title: "Linear probe".into(), x_label: "%".into(), rows: vec![row] }.svg();
/// assert_eq!(svg.matches("<circle").count(), 2);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DotChart {
    /// What is shown, above the rows.
    pub title: String,
    /// What the values are, below them.
    pub x_label: String,
    /// The rows, from top to bottom.
    pub rows: Vec<DotRow>,
}

impl DotChart {
    /// The chart as a self-contained SVG document.
    #[must_use]
    pub fn svg(&self) -> String {
        let mut body = String::new();
        svg::text(&mut body, "title", [0.0, 14.0], "start", &fitted(&self.title, svg::BOLD * 14.0, WIDTH));
        let top = 26.0;
        let bottom = top + ROW * self.rows.len().max(1) as f64;
        let all = self.rows.iter().flat_map(|row| row.values.iter().chain(row.interval.iter().flatten()).copied());
        let widest = self.rows.iter().map(|row| text_width(&row.label, 12.0)).fold(0.0, f64::max);
        let left = widest.min(LABELS) + 14.0;
        match axis::range(all) {
            Some(range) => self.plot(&mut body, &Axis::linear(range, 5, true), [left, top, bottom]),
            None => svg::text(&mut body, "dim", [WIDTH / 2.0, (top + bottom) / 2.0], "middle", "no data"),
        }
        let height = bottom + 42.0;
        let middle = (left + WIDTH - RIGHT) / 2.0;
        svg::text(&mut body, "dim", [middle, height - 6.0], "middle", &fitted(&self.x_label, 12.0, WIDTH));
        svg::document(WIDTH, height, &self.title, STYLE, &body)
    }

    fn plot(&self, body: &mut String, axis: &Axis, [left, top, bottom]: [f64; 3]) {
        let across = |value: f64| Some(left + axis.at(value)? * (WIDTH - RIGHT - left));
        for (value, label) in &axis.ticks {
            if let Some(x) = across(*value) {
                let _ = write!(body, "<path class=\"grid\" d=\"M{x:.1} {top}V{bottom}\"/>");
                svg::text(body, "tick", [x, bottom + 17.0], "middle", label);
            }
        }
        let _ = write!(body, "<path class=\"axis\" d=\"M{left:.1} {bottom}H{}\"/>", WIDTH - RIGHT);
        for (number, row) in self.rows.iter().enumerate() {
            let y = top + ROW * (number as f64 + 0.5);
            let label = fitted(&row.label, 12.0, LABELS);
            svg::text(body, "name", [left - 10.0, y + 4.0], "end", &label);
            if let Some([Some(low), Some(high)]) = row.interval.map(|ends| ends.map(across)) {
                let _ = write!(body, "<path class=\"line s0\" d=\"M{low:.1} {y}H{high:.1}\"/>");
            }
            if let Some(x) = row.mean.and_then(across) {
                let _ = write!(body, "<path class=\"line s0\" d=\"M{x:.1} {:.1}v10\"/>", y - 5.0);
            }
            for x in row.values.iter().filter_map(|value| across(*value)) {
                let _ = write!(body, "<circle class=\"dot s1\" cx=\"{x:.1}\" cy=\"{y}\" r=\"3\"/>");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(values: &[f64], interval: Option<[f64; 2]>) -> String {
        let row = DotRow { label: "<&>".into(), values: values.to_vec(), mean: values.first().copied(), interval };
        DotChart { title: "Probe".into(), x_label: "%".into(), rows: vec![row] }.svg()
    }

    /// Rounding once cut every label that had just fitted.
    #[test]
    fn a_label_that_fits_is_whole() {
        for label in ["15 %", "75 %", "random", "HPM 0 to 0.5"] {
            let row = DotRow { label: label.into(), values: vec![1.0, 2.0], mean: Some(1.5), interval: None };
            let svg = DotChart { title: "Probe".into(), x_label: "%".into(), rows: vec![row] }.svg();
            assert!(svg.contains(&format!(">{label}<")) && !svg.contains('…'), "{label}");
        }
    }

    #[test]
    fn a_dot_a_value_within_the_picture() {
        let svg = chart(&[70.0, 75.0, 80.0], Some([65.0, 90.0]));
        let places: Vec<f64> =
            svg.split("cx=\"").skip(1).map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect();
        assert!(places.len() == 3 && places.windows(2).all(|two| two[1] > two[0]), "{places:?}");
        assert!((places[1] - places[0] - (places[2] - places[1])).abs() < 0.2 && places[2] < WIDTH - RIGHT);
        assert!(svg.contains("&lt;&amp;&gt;"));
    }

    #[test]
    fn odd_values_are_left_out() {
        assert!(chart(&[], None).contains("no data") && DotChart::default().svg().contains("no data"));
        let svg = chart(&[f64::NAN, 1.0, f64::INFINITY], Some([0.5, f64::NAN]));
        assert!(svg.matches("<circle").count() == 1 && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
