//! Bar charts as SVG.

use std::fmt::Write;

use super::axis;
use super::svg::{self, STYLE, fitted, text_width};

/// Narrower than line charts: three cards stand in a row of the report.
const WIDTH: f64 = 360.0;

/// One bar.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bar {
    /// What was measured, above the bar.
    pub label: String,
    /// Its value; one that is not finite shows as `not measured`.
    pub value: f64,
    /// Drawn in colour instead of grey: what the chart is about, against its baselines.
    pub strong: bool,
}

/// Horizontal bars from zero, each with its label and value, drawn as SVG that follows the reader's light or dark
/// colours.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BarChart {
    /// What is shown, above the bars.
    pub title: String,
    /// The bars, from top to bottom.
    pub bars: Vec<Bar>,
    /// Values are shares: `0.742` is written as `74.2 %`, and the full width is at most 1.
    pub percent: bool,
}

impl BarChart {
    /// The chart as a self-contained SVG document.
    #[must_use]
    pub fn svg(&self) -> String {
        self.draw(STYLE)
    }

    /// The chart for a page that holds [`STYLE`] itself.
    pub(super) fn inline(&self) -> String {
        self.draw("")
    }

    fn draw(&self, style: &str) -> String {
        let mut body = String::new();
        svg::text(&mut body, "title", [0.0, 14.0], "start", &fitted(&self.title, svg::BOLD * 14.0, WIDTH));
        let [lo, hi] = axis::range(self.bars.iter().map(|bar| bar.value)).unwrap_or([0.0, 1.0]);
        let (lo, hi) = (lo.min(0.0), hi.max(0.0));
        let values: Vec<String> = self.bars.iter().map(|bar| self.value(bar.value)).collect();
        // Values stand behind the longest bar, or, with bars to both sides of zero, in a column of their own.
        let room = values.iter().map(|value| text_width(value, svg::BOLD * 12.0)).fold(0.0, f64::max) + 8.0;
        let unit = if hi > lo { (WIDTH - room) / (hi - lo) } else { 0.0 };
        let zero = -lo * unit;
        let mut y = 24.0;
        for (bar, value) in self.bars.iter().zip(&values) {
            svg::text(&mut body, "name", [0.0, y + 12.0], "start", &fitted(&bar.label, 12.0, WIDTH));
            let length = if axis::usable(bar.value) { bar.value * unit } else { 0.0 };
            let class = if bar.strong { "strong" } else { "bar" };
            let start = zero + length.min(0.0);
            let _ = write!(
                body,
                "<path class=\"axis\" d=\"M{zero:.1} {:.1}v20\"/><rect class=\"{class}\" x=\"{start:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"14\" rx=\"2\"/>",
                y + 16.0,
                y + 19.0,
                length.abs()
            );
            let behind = if lo < 0.0 { WIDTH - room } else { zero + length } + 6.0;
            svg::text(&mut body, "value", [behind, y + 30.5], "start", value);
            y += 42.0;
        }
        if self.bars.is_empty() {
            svg::text(&mut body, "dim", [WIDTH / 2.0, y + 20.0], "middle", "no data");
            y += 42.0;
        }
        svg::document(WIDTH, y, &self.title, style, &body)
    }

    fn value(&self, value: f64) -> String {
        match (axis::usable(value), self.percent) {
            (false, _) => "not measured".to_owned(),
            (true, true) => format!("{:.1} %", 100.0 * value),
            (true, false) => axis::short(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(values: &[f64]) -> String {
        let bars = values.iter().map(|value| Bar { label: "<&>".into(), value: *value, strong: false }).collect();
        BarChart { title: "kNN".into(), bars, percent: true }.svg()
    }

    fn widths(svg: &str) -> Vec<f64> {
        let bars = svg.split("<rect").skip(1);
        bars.map(|bar| bar.split(" width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap()).collect()
    }

    #[test]
    fn lengths_follow_values() {
        let svg = chart(&[0.8, 0.4, 0.0]);
        let found = widths(&svg);
        assert!((found[0] - 2.0 * found[1]).abs() < 0.2 && found[2] == 0.0 && found[0] > 250.0, "{found:?}");
        assert!(svg.contains(">80.0 %<") && svg.contains("&lt;&amp;&gt;"));
    }

    #[test]
    fn odd_values_are_drawn_too() {
        assert!(chart(&[]).contains("no data"));
        assert!(chart(&[f64::NAN]).contains("not measured"));
        let svg = chart(&[-0.5, 0.5, f64::INFINITY, 0.0]);
        assert!(!svg.contains("\"NaN") && !svg.contains("\"-"), "{svg}");
        assert_eq!(widths(&chart(&[-1e299, 1e299])).len(), 2);
    }
}
