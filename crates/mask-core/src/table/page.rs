//! The page of a table, and its picture: both drawn from the results alone.

use std::fmt::Write;

use super::results::{Compared, Results};
use super::statistics::mean;
use crate::report::{DotChart, DotRow};

/// A number as the page shows it: percents with one decimal, others with four digits.
pub(super) fn shown(value: f64, percent: bool) -> String {
    if percent { format!("{value:.1}") } else { digits(value) }
}

/// Four significant digits.
fn digits(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    if !(1e-3..1e6).contains(&size) {
        return format!("{value:.3e}");
    }
    let decimals = (3.0 - size.log10().floor()).clamp(0.0, 6.0) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A difference, which may lie below the last digit of what it is the difference of.
fn apart(value: f64, percent: bool) -> String {
    if percent { format!("{value:.2}") } else { digits(value) }
}

/// Text inside a cell of a Markdown table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn row<S: AsRef<str>>(page: &mut String, cells: impl IntoIterator<Item = S>) {
    for text in cells {
        let _ = write!(page, "| {} ", cell(text.as_ref()));
    }
    page.push_str("|\n");
}

fn head<S: AsRef<str>>(page: &mut String, cells: impl IntoIterator<Item = S>) {
    let cells: Vec<String> = cells.into_iter().map(|cell| cell.as_ref().to_owned()).collect();
    let count = cells.len();
    row(page, cells);
    page.push_str(&"| --- ".repeat(count));
    page.push_str("|\n");
}

impl Results {
    /// The file's name without ending: the table's, and at the paper's scale that as well.
    #[must_use]
    pub fn stem(&self) -> String {
        super::stem(&self.table, self.scale)
    }

    fn percent(&self, metric: &str) -> bool {
        self.metrics.iter().any(|m| m.name == metric && m.percent())
    }

    /// The mean of an arm, with its spread where it has one.
    pub(super) fn figure(&self, arm: &str, metric: &str, spread: bool) -> Option<String> {
        let percent = self.percent(metric);
        let values = self.values(arm, metric);
        let text = shown(mean(&values)?, percent);
        let sd = super::statistics::deviation(&values).filter(|_| spread);
        Some(sd.map_or_else(|| text.clone(), |sd| format!("{text} ± {}", shown(sd, percent))))
    }

    /// The page in Markdown.
    #[must_use]
    pub fn page(&self) -> String {
        let mut page = format!("# {}\n\n", self.title);
        page.push_str("<!-- Written by `table`; `table --check` holds it against the JSON file beside it. -->\n");
        let ledger = self.ledger.map_or_else(String::new, |number| format!(", ledger {number:03}"));
        let seeds: Vec<String> = self.seeds.iter().map(u64::to_string).collect();
        let _ = writeln!(
            page,
            "Method `{}`{ledger}, scale {}, seeds {}.\n",
            self.method,
            self.scale.word(),
            seeds.join(", ")
        );
        self.verdicts(&mut page);
        self.rows(&mut page);
        self.comparisons(&mut page);
        if !self.notes.is_empty() {
            page.push_str("## Notes\n\n");
            for note in &self.notes {
                let _ = writeln!(page, "- {}", note.trim());
            }
            page.push('\n');
        }
        let _ = writeln!(page, "## How it was made\n\n- command: `{}`", self.command);
        let _ = writeln!(page, "- date: {}", self.date);
        let _ = writeln!(page, "- commit: {}", self.commit);
        let _ = writeln!(page, "- machine: {}, {} thread(s) a run", self.machine, self.threads);
        let seconds: Vec<String> = self.seconds.iter().map(|(arm, seconds)| format!("{arm} {seconds:.0}")).collect();
        let _ = writeln!(page, "- seconds of training a run: {}", seconds.join(", "));
        page
    }

    fn verdicts(&self, page: &mut String) {
        head(page, ["claim", "verdict"]);
        for claim in &self.claims {
            row(page, [claim.name.as_str(), &format!("**{}**", claim.verdict.word())]);
        }
        page.push('\n');
    }

    fn rows(&self, page: &mut String) {
        page.push_str("## Arms\n\n");
        let mut columns: Vec<&String> = Vec::new();
        for (column, _) in self.arms.iter().flat_map(|arm| &arm.paper) {
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
        let ours = self.metrics.iter().map(|m| if m.percent() { format!("{}, %", m.name) } else { m.name.clone() });
        let theirs = columns.iter().map(|column| format!("paper: {column}"));
        let cost = ["steps", "parameters", "TFLOP a run"].map(str::to_owned);
        head(page, std::iter::once("arm".to_owned()).chain(ours).chain(theirs).chain(cost));
        for arm in &self.arms {
            let mut cells = vec![arm.name.clone()];
            cells.extend(self.metrics.iter().map(|m| self.figure(&arm.name, &m.name, true).unwrap_or_else(absent)));
            let paper =
                |column: &&String| arm.paper.iter().find(|(c, _)| c == *column).map(|(_, figure)| figure.clone());
            cells.extend(columns.iter().map(|column| paper(column).unwrap_or_default()));
            let flops = arm.flops.map_or_else(absent, |flops| digits(flops / 1e12));
            cells.extend([arm.steps.to_string(), arm.parameters.to_string(), flops]);
            row(page, cells);
        }
        for baseline in &self.baselines {
            let mut cells = vec![format!("*{}*", baseline.name)];
            let figure =
                |m: &super::config::MetricConfig| self.figure(&baseline.name, &m.name, true).unwrap_or_default();
            cells.extend(self.metrics.iter().map(figure));
            cells.extend(vec![String::new(); columns.len() + 3]);
            row(page, cells);
        }
        let _ = writeln!(
            page,
            "\nMean ± standard deviation over the seeds; in italics what the runs of the first arm were seen against.\n\n![{}: a dot a seed, the line is the 95 % interval of the mean]({}.svg)\n",
            self.metrics.first().map_or("", |metric| metric.name.as_str()),
            self.stem()
        );
    }

    fn comparisons(&self, page: &mut String) {
        page.push_str("## Comparisons\n\n");
        head(page, ["claim", "comparison", "of", "found", "95 % interval", "margin", "verdict"]);
        for claim in &self.claims {
            for compared in &claim.comparisons {
                let percent = self.percent(&compared.metric);
                let Compared { text, metric, found, interval, margin, verdict } = compared;
                let ends = interval.map(|ends| ends.map(|end| apart(end, percent)));
                let interval = ends.map_or_else(absent, |[low, high]| format!("{low} to {high}"));
                let found = found.map_or_else(absent, |found| apart(found, percent));
                row(page, [claim.name.as_str(), text, metric, &found, &interval, &digits(*margin), verdict.word()]);
            }
        }
        page.push_str(
            "\nA comparison is reproduced where its whole interval lies above the margin, not where it lies below.\n",
        );
        for spread in &self.spread {
            let percent = self.percent(&spread.metric);
            if let (Some(sd), Some(smallest)) = (spread.sd, spread.smallest) {
                let _ = writeln!(
                    page,
                    "The smallest difference in {} that this table could have shown: {} (standard deviation {} pooled over {} arms, {} degrees of freedom).",
                    spread.metric,
                    apart(smallest, percent),
                    apart(sd, percent),
                    self.arms.len(),
                    spread.degrees
                );
            }
        }
        for speed in &self.speed {
            let median = |of: usize| {
                let mut seconds: Vec<f64> = speed.seconds.iter().map(|pair| pair[of]).collect();
                seconds.sort_by(f64::total_cmp);
                seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
            };
            let quiet = speed.quiet.map_or_else(String::new, |share| {
                format!(", in which a processor worked for it {:.0} % of the time or more", 100.0 * share)
            });
            let _ = writeln!(
                page,
                "Seconds a step in {} turns, one after the other{quiet}: {} {}, {} {}.",
                speed.seconds.len(),
                speed.faster,
                digits(median(0)),
                speed.than,
                digits(median(1))
            );
        }
        page.push('\n');
    }

    /// The picture of the first metric.
    #[must_use]
    pub fn picture(&self) -> String {
        let Some(metric) = self.metrics.first() else { return DotChart::default().svg() };
        let pooled = self.pooled(&metric.name);
        let rows = self.arms.iter().map(|arm| {
            let values = self.values(&arm.name, &metric.name);
            let interval = mean(&values).zip(pooled).map(|(mean, pooled)| {
                let half = pooled.about(values.len());
                [mean - half, mean + half]
            });
            DotRow { label: arm.name.clone(), mean: mean(&values), values, interval }
        });
        let unit = if metric.percent() { ", %" } else { "" };
        DotChart { title: self.title.clone(), x_label: format!("{}{unit}", metric.name), rows: rows.collect() }.svg()
    }
}

fn absent() -> String {
    "–".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([shown(78.149, true), shown(0.123456, false), shown(1234.56, false)], ["78.1", "0.1235", "1235"]);
        assert_eq!([digits(0.0), digits(1.0), digits(2.5e-5), digits(-3.2e7)], ["0", "1", "2.500e-5", "-3.200e7"]);
        assert_eq!(apart(-1.234, true), "-1.23");
    }
}
