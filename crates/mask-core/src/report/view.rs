//! What the template of the report shows, put together from a [`Report`].

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context};

use super::axis::short;
use super::bars::{Bar, BarChart};
use super::chart::{Line, LineChart};
use super::compare;
use super::page::{Baseline, Picture, Report, Run, score_title};
use super::svg::STYLE;
use crate::error::{Error, Result};

const TEMPLATE: &str = include_str!("report.html");

/// The charts that every run has, in the order of the page: series, title, what it is multiplied with.
const CHARTS: [(&str, &str, f64); 7] = [
    ("loss", "Training loss", 1.0),
    ("held_out", "Held-out loss", 1.0),
    ("knn", "kNN (%)", 100.0),
    ("top1", "Held-out accuracy (%)", 100.0),
    ("rate", "Learning rate", 1.0),
    ("grad_norm", "Gradient norm", 1.0),
    ("samples_per_second", "Samples a second", 1.0),
];
/// A series whose values span more than this factor is drawn on a logarithmic axis.
const LOG_FROM: f64 = 30.0;

/// Fills the template.
pub(super) fn render(report: &Report) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    let page = environment.render_str(
        TEMPLATE,
        context! {
            title => one_line(&report.title),
            paper => report.paper.clone(),
            arxiv => report.arxiv.clone(),
            run => report.run.name.clone(),
            this => called(0, &report.run),
            against => report.against.as_ref().map(|run| called(1, run)),
            facts => facts(report),
            figures => figures(report),
            encoders => encoders(report),
            bars => bars(report),
            charts => charts(report, &CHARTS),
            others => other_charts(report),
            pictures => report.pictures.iter().map(picture).collect::<Result<Vec<_>>>()?,
            differences => differences(report),
            recipe => report.run.recipe.clone(),
            notes => report.notes.clone(),
            chart_style => Value::from_safe_string(STYLE.to_owned()),
        },
    );
    page.map_err(|error| Error::Defect(format!("the report's template: {error:#}")))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn runs(report: &Report) -> impl Iterator<Item = &Run> {
    std::iter::once(&report.run).chain(&report.against)
}

/// What a run is called beside others.
fn called(number: usize, run: &Run) -> String {
    match (number, run.name.is_empty()) {
        (_, false) => run.name.clone(),
        (0, true) => "this run".to_owned(),
        (_, true) => "second run".to_owned(),
    }
}

/// A row of a table: its name and one text a run; `None` when no run has a value.
fn row(report: &Report, name: &str, value: impl Fn(&Run) -> Option<String>) -> Option<Value> {
    let cells: Vec<Option<String>> = runs(report).map(value).collect();
    let cell = |cell: Option<String>| cell.unwrap_or_else(|| "–".to_owned());
    cells
        .iter()
        .any(Option::is_some)
        .then(|| context! { name, cells => cells.into_iter().map(cell).collect::<Vec<_>>() })
}

fn facts(report: &Report) -> Vec<Value> {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let rows = [
        row(report, "Run", |run| text(&run.name)),
        row(report, "Commit", |run| text(&run.commit)),
        row(report, "Machine", |run| text(&run.machine)),
        row(report, "Device", |run| text(&run.device)),
        row(report, "Seed", |run| run.seed.map(|seed| seed.to_string())),
        row(report, "Parameters", |run| run.parameters.map(|count| short(count as f64))),
    ];
    rows.into_iter().flatten().collect()
}

fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.1} %", 100.0 * share) } else { share.to_string() }
}

fn figures(report: &Report) -> Vec<Value> {
    let rows = [
        row(report, "Final loss", |run| run.metrics.last("loss").map(short)),
        row(report, "Held-out loss", |run| run.metrics.last("held_out").map(short)),
        row(report, "Masked share", |run| run.metrics.mean("masked").map(percent)),
        row(report, "Samples a second (median)", |run| run.metrics.median("samples_per_second").map(short)),
        row(report, "Data-wait share (mean)", |run| run.metrics.mean("data_wait").map(percent)),
    ];
    rows.into_iter().flatten().collect()
}

/// Kinds of scores in the order in which they come first.
fn kinds(report: &Report) -> Vec<&str> {
    let all = runs(report).map(|run| &run.scores).chain(report.baselines.iter().map(|base| &base.scores)).flatten();
    let mut kinds: Vec<&str> = Vec::new();
    let watched = runs(report).any(|run| run.score("knn").is_some()).then_some("knn");
    for kind in all.map(|(kind, _)| kind.as_str()).chain(watched) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

/// What was measured of one encoder, a value a kind.
struct Measured {
    name: String,
    values: Vec<Option<f64>>,
    /// A run rather than a baseline.
    trained: bool,
}

/// The runs, then the baselines.
fn measured(report: &Report, kinds: &[&str]) -> Vec<Measured> {
    let trained = runs(report).enumerate().map(|(number, run)| Measured {
        name: called(number, run),
        values: kinds.iter().map(|kind| run.score(kind)).collect(),
        trained: true,
    });
    let of = |base: &Baseline, kind: &str| base.scores.iter().find(|(name, _)| name == kind).map(|(_, value)| *value);
    let baselines = report.baselines.iter().map(|base| Measured {
        name: base.name.clone(),
        values: kinds.iter().map(|kind| of(base, kind)).collect(),
        trained: false,
    });
    trained.chain(baselines).collect()
}

/// The table of scores: titles, and a row an encoder; nothing when nothing was measured.
fn encoders(report: &Report) -> Option<Value> {
    let kinds = kinds(report);
    let cell = |value: &Option<f64>| value.map_or_else(|| "–".to_owned(), percent);
    let rows: Vec<Value> = measured(report, &kinds)
        .iter()
        .map(|one| {
            let cells: Vec<String> = one.values.iter().map(cell).collect();
            context! { name => one.name.clone(), cells, trained => one.trained }
        })
        .collect();
    let titles: Vec<String> = kinds.iter().map(|kind| score_title(kind).to_owned()).collect();
    (!kinds.is_empty()).then(|| context! { titles, rows })
}

fn bars(report: &Report) -> Vec<Value> {
    let kinds = kinds(report);
    let all = measured(report, &kinds);
    let chart = |(at, kind): (usize, &&str)| {
        let bar = |one: &Measured| Some(Bar { label: one.name.clone(), value: one.values[at]?, strong: one.trained });
        let bars: Vec<Bar> = all.iter().filter_map(bar).collect();
        // One bar alone compares nothing; the table has its value.
        let title = score_title(kind);
        let title = title.chars().take(1).flat_map(char::to_uppercase).chain(title.chars().skip(1)).collect();
        let title = if *kind == "knn" { "kNN".to_owned() } else { title };
        (bars.len() > 1).then_some(BarChart { title, bars, percent: true })
    };
    let charts = kinds.iter().enumerate().filter_map(chart);
    charts.map(|chart| Value::from_safe_string(chart.inline())).collect()
}

fn charts(report: &Report, wanted: &[(&str, &str, f64)]) -> Vec<Value> {
    let charts = wanted.iter().filter_map(|(series, title, unit)| {
        let chart = chart(report, series, title, *unit);
        chart.lines.iter().any(|line| !line.points.is_empty()).then(|| Value::from_safe_string(chart.inline()))
    });
    charts.collect()
}

/// A baseline's score as a line across a chart.
fn level(base: &Baseline, kind: &str, unit: f64) -> Option<(String, f64)> {
    let (_, value) = base.scores.iter().find(|(name, _)| name == kind)?;
    Some((base.name.clone(), unit * value))
}

fn chart(report: &Report, series: &str, title: &str, unit: f64) -> LineChart {
    let scaled = |run: &Run| run.metrics.series(series).iter().map(|[x, y]| [*x, unit * y]).collect::<Vec<_>>();
    let lines: Vec<Line> =
        runs(report).enumerate().map(|(number, run)| Line::new(called(number, run), scaled(run))).collect();
    let values = || lines.iter().flat_map(|line| line.points.iter().map(|point| point[1])).filter(|y| y.is_finite());
    let least = values().fold(f64::INFINITY, f64::min);
    let most = values().fold(f64::NEG_INFINITY, f64::max);
    let levels = match series {
        "knn" | "top1" => report.baselines.iter().filter_map(|base| level(base, series, unit)).collect(),
        _ => Vec::new(),
    };
    let log_y = least > 0.0 && most / least > LOG_FROM;
    let title = if log_y { format!("{title} (logarithmic)") } else { title.to_owned() };
    // A rate is a schedule: smoothing would only bend its corners.
    LineChart { title, x_label: "step".to_owned(), lines, levels, log_y, smooth: series != "rate" }
}

/// Charts of what else was measured, under its own names.
fn other_charts(report: &Report) -> Vec<Value> {
    let mut names: Vec<&str> = runs(report).flat_map(|run| run.metrics.names()).collect();
    names.sort_unstable();
    names.dedup();
    let known = |name: &str| CHARTS.iter().any(|(series, _, _)| *series == name);
    let same = |name: &str| runs(report).all(|run| run.metrics.series(name) == run.metrics.series("loss"));
    let named = |name: &str| match name {
        "masked" => "Masked share".to_owned(),
        "data_wait" => "Data-wait share".to_owned(),
        "seconds" => "Seconds a step".to_owned(),
        other => other.replace('_', " "),
    };
    let wanted: Vec<_> = names.into_iter().filter(|name| !known(name) && !same(name)).map(|n| (n, named(n))).collect();
    let wanted: Vec<_> = wanted.iter().map(|(name, title)| (*name, title.as_str(), 1.0)).collect();
    charts(report, &wanted)
}

fn differences(report: &Report) -> Option<Value> {
    let against = report.against.as_ref()?;
    let found = compare::differences(&report.run.recipe, &against.recipe);
    let readable = found.is_some();
    let cell = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
    let rows = found.unwrap_or_default().into_iter();
    let rows: Vec<Value> = rows.map(|(key, a, b)| context! { key, first => cell(a), second => cell(b) }).collect();
    Some(context! { readable, rows })
}

fn picture(picture: &Picture) -> Result<Value> {
    let kind = match picture.bytes.as_slice() {
        [0x89, b'P', b'N', b'G', ..] => "png",
        [0xff, 0xd8, 0xff, ..] => "jpeg",
        [b'G', b'I', b'F', b'8', ..] => "gif",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "webp",
        _ => return Err(Error::value(format!("picture '{}'", picture.title), "is no PNG, JPEG, GIF or WebP file")),
    };
    // Base64 needs no escaping, and escaping its slashes would lengthen the page by a twelfth.
    let source = Value::from_safe_string(format!("data:image/{kind};base64,{}", STANDARD.encode(&picture.bytes)));
    Ok(context! { title => picture.title.clone(), caption => picture.caption.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::super::{Metrics, contact_sheet, png};
    use super::*;

    fn run(name: &str, recipe: &str) -> Run {
        let mut metrics = Metrics::default();
        for step in 1..=60 {
            metrics.push("loss", f64::from(step), 1.0 / f64::from(step));
            metrics.push("masked", f64::from(step), 0.755);
            metrics.push("code_use", f64::from(step), 12.0);
        }
        metrics.push("knn", 50.0, 0.74);
        Run { name: name.into(), recipe: recipe.into(), seed: Some(0), metrics, ..Run::default() }
    }

    fn report() -> Report {
        Report { title: "Blinds".into(), run: run("first", "seed: 0"), ..Report::default() }
    }

    #[test]
    fn an_empty_report_renders() {
        let page = Report::default().render().unwrap();
        assert!(page.contains("Nothing was measured yet") && page.trim_end().ends_with("</html>"));
        assert!(!page.contains("Linear probe") && !page.contains("<details") && !page.contains("<script"));
    }

    #[test]
    fn names_and_texts_are_escaped_everywhere() {
        let bad = "<b>&\"'";
        let sheet = png(&contact_sheet(&[], &[]).unwrap()).unwrap();
        let mut one = run(bad, &format!("{bad}: 1"));
        (one.commit, one.machine, one.device) = (bad.into(), bad.into(), bad.into());
        one.metrics.push(bad, 1.0, 1.0);
        let page = Report {
            title: bad.into(),
            paper: bad.into(),
            arxiv: Some(bad.into()),
            against: Some(run(bad, "seed: 1")),
            run: one,
            baselines: vec![Baseline { name: bad.into(), scores: vec![(bad.into(), 0.5)] }],
            pictures: vec![Picture { title: bad.into(), caption: bad.into(), bytes: sheet }],
            notes: vec![bad.into()],
        }
        .render()
        .unwrap();
        assert!(!page.contains("<b>") && !page.contains("&\""), "raw text in the page");
        assert!(page.matches("&lt;b&gt;&amp;").count() > 15);
        assert!(page.contains("src=\"data:image/png;base64,iVBORw0KGgo"));
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        let page = report().render().unwrap().replace("http://www.w3.org/2000/svg", "");
        assert!(["http://", "https://", "@import", "url(", "<script", "<link"].iter().all(|out| !page.contains(out)));
    }

    #[test]
    fn figures_stand_beside_the_baselines() {
        let scores = vec![("knn".into(), 0.613), ("dense".into(), 0.21)];
        let baseline = Baseline { name: "random-initialised encoder".into(), scores };
        let page = Report { baselines: vec![baseline], ..report() }.render().unwrap();
        for want in [
            "0.01667",
            "75.5 %",
            "74.0 %",
            "61.3 %",
            "21.0 %",
            "dense, mIoU",
            "random-initialised",
            "Masked share",
            "code use",
        ] {
            assert!(page.contains(want), "{want}");
        }
        assert!(page.contains("Training loss (logarithmic)"));
    }

    #[test]
    fn a_second_run_shows_what_differs() {
        let recipe = "seed: 1\ntrain: {steps: 9}";
        let page = Report { against: Some(run("second", recipe)), ..report() }.render().unwrap();
        assert!(page.contains("<code>train.steps</code></td><td><code>–</code></td><td><code>9</code>"));
        assert!(page.contains("line s1"), "two curves");
        let page = Report { against: Some(run("second", "seed: 0")), ..report() }.render().unwrap();
        assert!(page.contains("the recipes are the same"));
        let page = Report { against: Some(run("second", "a: [")), ..report() }.render().unwrap();
        assert!(page.contains("not compared"));
    }

    #[test]
    fn pictures_of_no_known_format_are_refused() {
        let bad = Picture { title: "sound".into(), bytes: b"RIFF....WAVE".to_vec(), ..Picture::default() };
        let error = Report { pictures: vec![bad], ..report() }.render().unwrap_err();
        assert!(matches!(&error, Error::Value { what, .. } if what == "picture 'sound'"), "{error}");
    }
}
