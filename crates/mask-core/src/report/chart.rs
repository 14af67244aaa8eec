//! Line charts as SVG.

use std::fmt::Write;

use super::axis::{self, Axis};
use super::svg::{self, STYLE, fitted, text_width};

const WIDTH: f64 = 480.0;
const PLOT_HEIGHT: f64 = 190.0;
/// Room right of the plot, for half of the last tick's label.
const RIGHT: f64 = 24.0;
/// Buckets of a thinned line; each keeps its least and its largest value.
const BUCKETS: usize = 500;
/// Below this many points a line is drawn with markers, and from here on smoothed if asked.
const FEW: usize = 40;

/// One line of a chart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// `[x, y]` with rising x; a y that is not finite leaves a gap.
    pub points: Vec<[f64; 2]>,
}

impl Line {
    /// A line of these points.
    pub fn new(name: impl Into<String>, points: impl Into<Vec<[f64; 2]>>) -> Self {
        Self { name: name.into(), points: points.into() }
    }
}

/// A chart of several lines over a common x, drawn as SVG that follows the reader's light or dark colours.
/// ```
/// # use mask_core::report::{Line, LineChart};
/// let chart = LineChart {
///     title: "Loss".into(),
///     x_label: "step".into(),
///     lines: vec![Line::new("this run", [[10.0, 0.9], [20.0, 0.7]])],
///     ..LineChart::default()
/// };
/// assert!(chart.svg().starts_with("<svg"));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LineChart {
    /// What is shown, above the plot.
    pub title: String,
    /// What x is, below the plot.
    pub x_label: String,
    /// The lines, in the order of the legend.
    pub lines: Vec<Line>,
    /// Horizontal dashed lines, for example baselines: name and y.
    pub levels: Vec<(String, f64)>,
    /// Logarithmic y; values that are not above zero leave gaps. Linear all the same where no value is above zero.
    pub log_y: bool,
    /// Draws long lines faintly and their moving average (over about a 30th of the points) boldly.
    pub smooth: bool,
}

impl LineChart {
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
        let top = self.legend(&mut body, 22.0) + 12.0;
        let bottom = top + PLOT_HEIGHT;
        let height = bottom + if self.x_label.is_empty() { 22.0 } else { 40.0 };
        let ys = || {
            self.lines.iter().flat_map(|line| line.points.iter().map(|p| p[1])).chain(self.levels.iter().map(|l| l.1))
        };
        let drawn = |point: &&[f64; 2]| axis::usable(point[0]) && axis::usable(point[1]);
        let xs = self.lines.iter().flat_map(|line| line.points.iter().filter(drawn).map(|p| p[0]));
        let log = self.log_y && ys().any(axis::positive);
        let y = axis::range(ys().filter(|y| !log || axis::positive(*y)));
        match (axis::range(xs), y) {
            (Some(x), Some(y)) => {
                let y = if log { Axis::logarithmic(y, 6) } else { Axis::linear(y, 5, true) };
                let left = y.ticks.iter().map(|(_, label)| text_width(label, 12.0)).fold(0.0, f64::max) + 10.0;
                let plot = Plot { x: x_axis(x, left), y, left, top, bottom };
                plot.frame(&mut body);
                for (number, line) in self.lines.iter().enumerate() {
                    plot.line(&mut body, number % svg::COLOURS, &line.points, self.smooth);
                }
                for (number, (_, value)) in self.levels.iter().enumerate() {
                    plot.level(&mut body, self.level_colour(number), *value);
                }
            }
            _ => {
                let _ = write!(body, "<path class=\"axis\" d=\"M0 {bottom}H{WIDTH}\"/>");
                svg::text(&mut body, "dim", [WIDTH / 2.0, (top + bottom) / 2.0], "middle", "no data");
            }
        }
        svg::text(&mut body, "dim", [WIDTH / 2.0, height - 6.0], "middle", &fitted(&self.x_label, 12.0, WIDTH));
        svg::document(WIDTH, height, &self.title, style, &body)
    }

    /// Levels take the colours after those of the lines.
    fn level_colour(&self, number: usize) -> usize {
        (self.lines.len() + number) % svg::COLOURS
    }

    /// Draws the legend below `top`, in as many rows as it needs; returns where it ends.
    fn legend(&self, body: &mut String, top: f64) -> f64 {
        let lines = self.lines.iter().enumerate().map(|(n, line)| (n % svg::COLOURS, "line", &line.name));
        let levels = self.levels.iter().enumerate().map(|(n, (name, _))| (self.level_colour(n), "level", name));
        if self.lines.len() + self.levels.len() < 2 {
            return top;
        }
        let (mut x, mut y) = (0.0, top + 13.0);
        for (colour, kind, name) in lines.chain(levels) {
            let name = fitted(name, 12.0, WIDTH - 24.0);
            let wide = 24.0 + text_width(&name, 12.0);
            if x > 0.0 && x + wide > WIDTH {
                (x, y) = (0.0, y + 17.0);
            }
            let _ = write!(body, "<path class=\"{kind} s{colour}\" d=\"M{x:.1} {:.1}h18\"/>", y - 4.0);
            svg::text(body, "key", [x + 23.0, y], "start", &name);
            x += wide + 16.0;
        }
        y + 4.0
    }
}

/// As many ticks as have room for their labels.
fn x_axis([lo, hi]: [f64; 2], left: f64) -> Axis {
    // Steps start at 0 even where the first row was written later.
    let lo = if lo > 0.0 && lo < 0.1 * hi { 0.0 } else { lo };
    let fits = |axis: &Axis| {
        let places: Vec<(f64, f64)> = axis
            .ticks
            .iter()
            .filter_map(|(value, label)| Some((axis.at(*value)? * (WIDTH - RIGHT - left), text_width(label, 12.0))))
            .collect();
        places.windows(2).all(|two| two[1].0 - two[0].0 >= (two[0].1 + two[1].1) / 2.0 + 10.0)
    };
    let mut axis = Axis::linear([lo, hi], 6, false);
    for most in (1..6).rev() {
        if fits(&axis) {
            break;
        }
        axis = Axis::linear([lo, hi], most, false);
    }
    axis
}

struct Plot {
    x: Axis,
    y: Axis,
    left: f64,
    top: f64,
    bottom: f64,
}

impl Plot {
    fn across(&self, x: f64) -> Option<f64> {
        Some(self.left + self.x.at(x)? * (WIDTH - RIGHT - self.left))
    }

    fn up(&self, y: f64) -> Option<f64> {
        Some(self.bottom - self.y.at(y)? * (self.bottom - self.top))
    }

    fn place(&self, point: &[f64; 2]) -> Option<[f64; 2]> {
        Some([self.across(point[0])?, self.up(point[1])?])
    }

    fn frame(&self, body: &mut String) {
        let (left, right, bottom) = (self.left, WIDTH - RIGHT, self.bottom);
        for (value, label) in &self.y.ticks {
            if let Some(y) = self.up(*value) {
                let _ = write!(body, "<path class=\"grid\" d=\"M{left:.1} {y:.1}H{right}\"/>");
                svg::text(body, "tick", [left - 6.0, y + 4.0], "end", label);
            }
        }
        let _ = write!(body, "<path class=\"axis\" d=\"M{left:.1} {bottom}H{right}\"/>");
        for (value, label) in &self.x.ticks {
            if let Some(x) = self.across(*value) {
                let _ = write!(body, "<path class=\"axis\" d=\"M{x:.1} {bottom}v4\"/>");
                // The outer labels are pushed inwards where they would leave the picture.
                let half = text_width(label, 12.0) / 2.0;
                svg::text(body, "tick", [x.clamp(half, (WIDTH - half).max(half)), bottom + 17.0], "middle", label);
            }
        }
    }

    fn line(&self, body: &mut String, colour: usize, points: &[[f64; 2]], smooth: bool) {
        let smooth = smooth && points.len() >= FEW;
        self.path(body, if smooth { "raw" } else { "line" }, colour, points);
        if smooth {
            self.path(body, "line", colour, &averaged(points, points.len() as f64 / 30.0));
        } else if points.len() < FEW {
            for [x, y] in points.iter().filter_map(|point| self.place(point)) {
                let _ = write!(body, "<circle class=\"dot s{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\"/>");
            }
        }
    }

    fn path(&self, body: &mut String, class: &str, colour: usize, points: &[[f64; 2]]) {
        let (mut path, mut pen) = (String::new(), false);
        for point in &thinned(points) {
            match self.place(point) {
                Some([x, y]) => {
                    // A lone point between gaps shows as the round cap of a line without length.
                    let _ = if pen { write!(path, "L{x:.1} {y:.1}") } else { write!(path, "M{x:.1} {y:.1}h0") };
                    pen = true;
                }
                None => pen = false,
            }
        }
        if !path.is_empty() {
            let _ = write!(body, "<path class=\"{class} s{colour}\" d=\"{path}\"/>");
        }
    }

    fn level(&self, body: &mut String, colour: usize, value: f64) {
        if let Some(y) = self.up(value) {
            let _ = write!(body, "<path class=\"level s{colour}\" d=\"M{:.1} {y:.1}H{}\"/>", self.left, WIDTH - RIGHT);
        }
    }
}

/// At most about a thousand points: of each of [`BUCKETS`] equal ranges of x the least and the largest value, in
/// their order, and a gap after a range that holds one.
fn thinned(points: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let Some([lo, hi]) = axis::range(points.iter().map(|point| point[0])).filter(|_| points.len() > 2 * BUCKETS) else {
        return points.to_vec();
    };
    let bucket = |x: f64| (((x - lo) / (hi - lo) * BUCKETS as f64) as usize).min(BUCKETS - 1);
    let mut kept = Vec::new();
    for group in points.chunk_by(|a, b| bucket(a[0]) == bucket(b[0])) {
        let finite = || group.iter().enumerate().filter(|(_, point)| axis::usable(point[1]));
        let least = finite().min_by(|a, b| a.1[1].total_cmp(&b.1[1]));
        let most = finite().max_by(|a, b| a.1[1].total_cmp(&b.1[1]));
        if let (Some(least), Some(most)) = (least, most) {
            kept.push(*if least.0 <= most.0 { least.1 } else { most.1 });
            if least.0 != most.0 {
                kept.push(*if least.0 <= most.0 { most.1 } else { least.1 });
            }
        }
        kept.extend(group.iter().find(|point| !axis::usable(point[1])));
    }
    kept
}

/// The exponential moving average over about `span` points, taken from both sides so that it doesn't lag behind a
/// falling curve; weights that reach beyond the ends are left out, and gaps stay.
fn averaged(points: &[[f64; 2]], span: f64) -> Vec<[f64; 2]> {
    let keep = 1.0 - 2.0 / (span.max(1.0) + 1.0);
    let mut sums = vec![[0.0, 0.0]; points.len()];
    let run = |order: &mut dyn Iterator<Item = (&mut [f64; 2], &[f64; 2])>| {
        let (mut sum, mut weight) = (0.0, 0.0);
        for (total, point) in order.filter(|(_, point)| axis::usable(point[1])) {
            // What came before; the point itself is added once, below.
            *total = [total[0] + keep * sum, total[1] + keep * weight];
            (sum, weight) = (keep * sum + point[1], keep * weight + 1.0);
        }
    };
    run(&mut sums.iter_mut().zip(points));
    run(&mut sums.iter_mut().zip(points).rev());
    let average = |(point, sum): (&[f64; 2], &[f64; 2])| {
        [point[0], if axis::usable(point[1]) { (sum[0] + point[1]) / (sum[1] + 1.0) } else { f64::NAN }]
    };
    points.iter().zip(&sums).map(average).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<[f64; 2]>) -> LineChart {
        LineChart {
            title: "Loss".into(),
            x_label: "step".into(),
            lines: vec![Line::new("a", points)],
            ..Default::default()
        }
    }

    #[test]
    fn none_and_one_point() {
        assert!(chart(vec![]).svg().contains("no data"));
        assert!(chart(vec![[1.0, f64::NAN]]).svg().contains("no data"));
        let one = chart(vec![[1.0, 2.0]]).svg();
        assert!(one.contains("<circle") && !one.contains("no data") && !one.contains("NaN"));
    }

    #[test]
    fn a_gap_breaks_the_line() {
        let points = vec![[0.0, 1.0], [1.0, 2.0], [2.0, f64::NAN], [3.0, 1.0], [4.0, f64::INFINITY], [5.0, 2.0]];
        let svg = chart(points).svg();
        let path = svg.split("class=\"line s0\" d=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!((path.matches('M').count(), path.matches('L').count()), (3, 1), "{path}");
    }

    #[test]
    fn a_million_points_keep_their_extremes() {
        let mut points: Vec<[f64; 2]> = (0..1_000_000).map(|i| [f64::from(i), f64::from(i % 7)]).collect();
        points[123_456][1] = 1e6;
        points[654_321][1] = -50.0;
        let kept = thinned(&points);
        assert!((900..=1000).contains(&kept.len()), "{}", kept.len());
        assert!(kept.contains(&[123_456.0, 1e6]) && kept.contains(&[654_321.0, -50.0]));
        assert!(kept.windows(2).all(|two| two[0][0] < two[1][0]));
        points[500_000][1] = f64::NAN;
        assert!(thinned(&points).iter().any(|point| point[1].is_nan()));
        assert!(chart(points).svg().len() < 30_000);
    }

    #[test]
    fn logarithmic_axes_skip_what_is_not_positive() {
        let mut chart = LineChart { log_y: true, ..chart(vec![[0.0, 1e-3], [1.0, 0.0], [2.0, 1e3]]) };
        assert!(chart.svg().contains(">1e-3<") || chart.svg().contains(">0.001<"));
        chart.lines[0].points = vec![[0.0, -1.0], [1.0, -2.0]];
        assert!(!chart.svg().contains("no data"), "falls back to a linear axis");
    }

    #[test]
    fn averages_neither_lag_nor_bend_at_the_ends() {
        let flat = averaged(&[[0.0, 4.0], [1.0, f64::NAN], [2.0, 4.0]], 10.0);
        assert!((flat[0][1] - 4.0).abs() < 1e-12 && flat[1][1].is_nan() && (flat[2][1] - 4.0).abs() < 1e-12);
        let three = averaged(&[[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]], 3.0); // keep 0.5
        let want = [0.5 / 1.75, 1.0 / 2.0, 0.5 / 1.75]; // weights 1, 1/2, 1/4 and 1/2, 1, 1/2
        assert!(three.iter().zip(want).all(|(point, want)| (point[1] - want).abs() < 1e-12), "{three:?}");
        let slope: Vec<[f64; 2]> = (0..101).map(|i| [f64::from(i), f64::from(i)]).collect();
        assert!((averaged(&slope, 5.0)[50][1] - 50.0).abs() < 1e-9, "no lag");
    }

    #[test]
    fn huge_ranges_stay_in_the_picture() {
        for y in [[0.0, 1e299], [-1e299, 1e299], [1e-300, 1.0], [1e9, 1e9 + 1e-3], [5.0, 5.0]] {
            for log_y in [false, true] {
                let svg = LineChart { log_y, ..chart(vec![[0.0, y[0]], [1e15, y[1]]]) }.svg();
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            }
        }
    }

    #[test]
    fn long_legends_wrap_and_names_are_escaped() {
        let lines =
            (0..9).map(|n| Line::new(format!("<run> & {n} with a long name"), [[0.0, 1.0], [1.0, 2.0]])).collect();
        let levels = vec![("x".repeat(500), 1.5)];
        let svg = LineChart { title: "T".into(), lines, levels, ..Default::default() }.svg();
        assert!(svg.contains("&lt;run&gt; &amp; 8") && !svg.contains("<run>") && svg.contains('…'));
        assert!(!svg.contains(&"x".repeat(100)));
    }
}
