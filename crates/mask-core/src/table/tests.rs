//! From a table's file and measured numbers to verdicts, pages and what `--check` says.

use std::path::Path;

use super::check::misfits;
use super::*;
use crate::recipe::Tree;

/// A register without methods can't read a table, so one with a name only.
const METHODS: &[crate::method::MethodEntry] = &[crate::method::MethodEntry {
    card: crate::method::Card { name: "blinds", title: "Blinds", year: 2026, arxiv: None, ledger: &[], summary: "" },
    defaults: || Err(Error::Defect("not read here".to_owned())),
    read: |_| Err(Error::Defect("not read here".to_owned())),
    read_data: |_| Err(Error::Defect("not read here".to_owned())),
    files: |_| Ok(Vec::new()),
    still: |data| Ok(data.clone()),
    data_stages: |_| Ok(Vec::new()),
}];

const REGISTER: Register = Register { methods: METHODS, ..Register::empty("mask-blinds", "", "blinds", "raw rows") };

const TABLE: &str = "
title: Rows
method: blinds
scales: { mini: { recipe: Cargo.toml, set: [a=1] } }
seeds: 3
metrics: [{ name: linear, percent: true }, { name: loss, better: lower }]
arms:
  - { name: rows, changes: { mask: { kind: rows }, rate: 1e-4 }, paper: { linear: 80.1, note: good } }
  - { name: dots 50 %, set: [mask=dots] }
claims:
  - name: rows are better
    means: [{ better: rows, than: dots 50 %, metric: linear, margin: 1 }]
  - name: rows are better and fast
    speed: [{ faster: rows, than: dots 50 %, ratio: 1.5 }]
    means:
      - { better: rows, than: [dots 50 %, raw rows], metric: loss }
      - { better: dots 50 %, than: rows, metric: linear, margin: -9 }
notes: [made up]
";

/// The table over text with changed words; recipes lie in the crate's folder.
fn table(changes: &[(&str, &str)]) -> Result<Table> {
    let mut text = TABLE.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.yaml");
    std::fs::write(&path, text).unwrap();
    let tree = Tree::load(&path)?;
    Table::of(&REGISTER, Path::new("rows.yaml"), tree)
}

fn named<const N: usize>(values: [(&str, Vec<f64>); N]) -> Named<Vec<Option<f64>>> {
    values.into_iter().map(|(name, all)| (name.to_owned(), all.into_iter().map(Some).collect())).collect()
}

/// Squares of linear 2 and 8 over 4 degrees: sd sqrt(2.5); of loss 0.02 and 0.02: sd 0.1. t(4) = 2.776445.
fn results() -> Results {
    let arm = |name: &str, values| ArmResult {
        name: name.to_owned(),
        steps: 10,
        parameters: 1000,
        flops: Some(2.5e12),
        values,
        mean: Named::new(),
        sd: Named::new(),
        paper: Vec::new(),
    };
    Results {
        table: "rows".into(),
        scale: Scale::Mini,
        title: String::new(),
        method: String::new(),
        ledger: None,
        command: "table rows".into(),
        date: "2026-01-02".into(),
        commit: "abc".into(),
        machine: "two cores".into(),
        seconds: vec![("rows".into(), 1.25), ("dots 50 %".into(), 3.0)],
        threads: 1,
        seeds: vec![0, 1, 2],
        metrics: Vec::new(),
        arms: vec![
            arm("rows", named([("linear", vec![79.0, 80.0, 81.0]), ("loss", vec![0.4, 0.5, 0.6])])),
            arm("dots 50 %", named([("linear", vec![68.0, 70.0, 72.0]), ("loss", vec![0.8, 0.9, 1.0])])),
        ],
        baselines: vec![BaselineResult {
            name: "raw rows".into(),
            values: named([("linear", vec![60.0; 3])]),
            mean: Named::new(),
        }],
        speed: vec![SpeedResult {
            faster: "rows".into(),
            than: "dots 50 %".into(),
            seconds: vec![[1.0, 2.0], [1.0, 2.1], [1.1, 2.2]],
            quiet: Some(0.98),
        }],
        spread: Vec::new(),
        claims: Vec::new(),
        notes: Vec::new(),
    }
}

fn close(found: f64, wanted: f64) {
    assert!((found - wanted).abs() < 1e-6 * wanted.abs().max(1.0), "{found} instead of {wanted}");
}

#[test]
fn verdicts_follow_from_numbers_and_file() {
    let found = results().derive(&table(&[]).unwrap()).unwrap();
    let half = 2.7764451051977934 * (2.5f64 * 2.0 / 3.0).sqrt(); // 3.584
    close(found.spread[0].sd.unwrap(), 2.5f64.sqrt());
    close(found.spread[0].smallest.unwrap(), half);
    assert_eq!(found.spread[0].degrees, 4);
    let main = &found.claims[0];
    assert_eq!((main.verdict, main.comparisons[0].found), (Verdict::Reproduced, Some(10.0)));
    close(main.comparisons[0].interval.unwrap()[0], 10.0 - half);
    let second = &found.claims[1];
    let [race, loss, other] = &second.comparisons[..] else { panic!("three comparisons") };
    // Ratios 2, 2.1, 2: their geometric mean; scipy: exp(0.7094 -+ 4.302653 * 0.028169 / sqrt(3)).
    close(race.found.unwrap(), 8.4f64.powf(1.0 / 3.0));
    assert_eq!(race.verdict, Verdict::Reproduced);
    // A baseline without the metric is no candidate; lower is better, so the difference is 0.9 - 0.5.
    close(loss.found.unwrap(), 0.4);
    assert_eq!((loss.text.as_str(), loss.verdict), ("rows is below dots 50 %", Verdict::Reproduced));
    // -10 -+ 3.58 lies across the margin of -9.
    assert_eq!((other.text.as_str(), other.verdict), ("dots 50 % is not worse than rows", Verdict::Undecided));
    assert_eq!(second.verdict, Verdict::Undecided);
    // What the seeds' number takes away.
    let mut one = results();
    one.seeds.truncate(1);
    for arm in &mut one.arms {
        arm.values.values_mut().for_each(|values| values.truncate(1));
    }
    let one = one.derive(&table(&[]).unwrap()).unwrap();
    assert_eq!((one.claims[0].verdict, one.spread[0].smallest), (Verdict::Undecided, None));
}

#[test]
fn a_mean_may_be_held_against_a_number() {
    let limit = |limit: &str| {
        let table =
            table(&[("than: dots 50 %, metric: linear, margin: 1", &format!("limit: {limit}, metric: linear"))])
                .unwrap();
        results().derive(&table).unwrap().claims[0].comparisons[0].clone()
    };
    // 80 -+ 2.776445 * sqrt(2.5) * sqrt(1/3).
    let half = 2.7764451051977934 * (2.5f64 / 3.0).sqrt();
    close(limit("70").interval.unwrap()[1], 10.0 + half);
    let text = |limit: &Compared| (limit.text.clone(), limit.verdict);
    assert_eq!(text(&limit("70")), ("rows is above 70".to_owned(), Verdict::Reproduced));
    assert_eq!(limit("79").verdict, Verdict::Undecided);
    assert_eq!(limit("83.5").verdict, Verdict::NotReproduced);
}

#[test]
fn shares_become_percents_without_their_last_bits() {
    let percent = |value| MetricConfig { name: "x".into(), better: None, percent: Some(true) }.in_unit(value);
    assert_eq!([percent(0.57), percent(0.58), percent(1.0), percent(1.0 / 3.0)], [57.0, 58.0, 100.0, 33.333_333_333]);
}

#[test]
fn a_run_that_was_not_finite_is_left_out() {
    let mut found = results();
    found.arms[1].values.get_mut("linear").unwrap()[1] = None;
    let found = found.derive(&table(&[]).unwrap()).unwrap();
    // 68 and 72: mean 70, squares 8 over 2 + 1 degrees.
    close(found.spread[0].sd.unwrap(), (10.0f64 / 3.0).sqrt());
    assert_eq!((found.spread[0].degrees, found.arms[1].mean["linear"]), (3, Some(70.0)));
    found.arms[1].values.values().for_each(|values| assert_eq!(values.len(), 3));
}

#[test]
fn the_file_is_the_same_each_time_and_reads_back() {
    let found = results().derive(&table(&[]).unwrap()).unwrap();
    let text = found.text().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.json");
    std::fs::write(&path, &text).unwrap();
    let read = Results::read(&path).unwrap();
    assert_eq!(read, found);
    assert_eq!(read.derive(&table(&[]).unwrap()).unwrap().text().unwrap(), text);
    for (key, start) in [("date", "\"2026"), ("machine", "\"two"), ("seconds", "[["), ("commit", "\"abc")] {
        let line = text.lines().find(|line| line.starts_with(&format!("  \"{key}\": "))).unwrap();
        assert!(line.contains(start) && line.ends_with(','), "{line}");
    }
    for damaged in
        ["", "{}", &text[..text.len() / 2], &text.replace("\"seeds\":", "\"sedes\":"), &text.replace("79.0,", "")]
    {
        std::fs::write(&path, damaged).unwrap();
        let error = Results::read(&path).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error}");
    }
}

proptest::proptest! {
    /// Else `--check` would find a difference where nobody changed anything.
    #[test]
    fn numbers_are_read_as_they_were_written(loss in proptest::collection::vec(0.0f64..1e3, 3)) {
        let mut found = results();
        found.arms[0].values.insert("loss".to_owned(), loss.into_iter().map(Some).collect());
        let found = found.derive(&table(&[]).unwrap()).unwrap();
        let text = found.text().unwrap();
        let read: Results = serde_json::from_str(&text).unwrap();
        proptest::prop_assert_eq!(read.derive(&table(&[]).unwrap()).unwrap().text().unwrap(), text);
    }
}

#[test]
fn the_page_tells_everything() {
    let found = results().derive(&table(&[]).unwrap()).unwrap();
    let page = found.page();
    for want in [
        "| rows are better | **reproduced** |",
        "| rows | 80.0 ± 1.0 | 0.5 ± 0.1 | 80.1 | good | 10 | 1000 | 2.5 |",
        "| *raw rows* | 60.0 ± 0.0 |",
        "| rows are better | rows is above dots 50 % | linear | 10.00 | 6.42 to 13.58 | 1 | reproduced |",
        "smallest difference in linear that this table could have shown: 3.58 (standard deviation 1.58 pooled over 2 arms, 4 degrees of freedom)",
        "Seconds a step in 3 turns, one after the other, in which a processor worked for it 98 % of the time or more: rows 1, dots 50 % 2.1.",
        "![linear: a dot a seed, the line is the 95 % interval of the mean](rows.svg)",
        "- made up",
        "- seconds of training a run: rows 1, dots 50 % 3",
    ] {
        assert!(page.contains(want), "{want}\n{page}");
    }
    let picture = found.picture();
    assert!(picture.starts_with("<svg") && picture.matches("<circle").count() == 6, "{picture}");
    assert_eq!(found.figure("rows", "linear", false).unwrap(), "80.0");
    assert_eq!(found.figure("rows", "linear", true).unwrap(), "80.0 ± 1.0");
}

#[test]
fn what_differs_from_the_table_is_named() {
    let found = results().derive(&table(&[]).unwrap()).unwrap();
    assert!(misfits(&found, &table(&[]).unwrap()).unwrap().is_empty());
    let renamed = table(&[("dots 50 %", "dots 60 %")]).unwrap();
    let wanted = ["names the arm 'dots 50 %', which the table lacks", "lacks the arm 'dots 60 %'; run the table"];
    assert_eq!(misfits(&found, &renamed).unwrap(), wanted);
    let other = table(&[("name: linear, percent: true", "name: linear")]).unwrap();
    assert!(misfits(&found, &other).unwrap()[0].starts_with("lacks the metric 'linear' in the unit"));
    // A claim that was changed after the runs changes what the file should hold.
    let moved = table(&[("margin: 1 ", "margin: 12 ")]).unwrap();
    let derived = found.clone().derive(&moved).unwrap();
    assert_eq!(derived.claims[0].verdict, Verdict::Undecided);
    assert_ne!(derived.text().unwrap(), found.text().unwrap());
}

#[test]
fn arms_are_recipes_with_changes() {
    let arms = table(&[]).unwrap().arms_at(Scale::Mini).unwrap();
    assert_eq!(arms[0].sets, ["a=1", "mask={\"kind\":\"rows\"}", "rate=0.0001"]);
    assert_eq!((arms[0].folder.as_str(), arms[1].folder.as_str()), ("rows", "dots-50"));
    assert_eq!(arms[0].paper, [("linear".into(), "80.1".into()), ("note".into(), "good".into())]);
    assert!(table(&[]).unwrap().arms_at(Scale::Paper).unwrap_err().to_string().contains("no scale 'paper'"));
}

/// Each is refused with its place and what would be right.
#[test]
fn mistakes_in_a_table_are_named() {
    for (changes, wanted) in [
        (("title: Rows", "tilte: Rows"), "rows.yaml:2:1: the table has no key 'tilte', did you mean 'title'?"),
        (("title: Rows", "title: ''"), "rows.yaml:2:1: title: is empty"),
        (("method: blinds", "method: blind"), "rows.yaml:3:1: method: there is no 'blind', did you mean 'blinds'?"),
        (("mini: {", "mnii: {"), "scales has no key 'mnii', did you mean 'mini'? It takes mini, paper"),
        (("Cargo.toml", "Cargo.tolm"), "scales.mini.recipe: Cargo.tolm is no file"),
        (("seeds: 3", "seeds: 0"), "seeds: 0 is not a number from 1 to 1000"),
        (("better: lower", "better: low"), "metrics.1.better: there is no 'low', did you mean 'lower'?"),
        (("name: loss", "name: linear"), "metrics.1.name: 'linear' comes twice"),
        (("name: dots 50 %, set", "name: Rows!, set"), "arms.1.name: 'Rows!' is too much like the name of another arm"),
        (("name: dots 50 %, set", "name: '%', set"), "arms.1.name: '%' holds no letter"),
        (("name: dots 50 %, set", "name: 'a|b', set"), "arms.1.name: takes 1 to 100 letters, none of |"),
        (
            ("than: dots 50 %, metric", "than: dots 5 %, metric"),
            "claims.0.means.0.than: there is no 'dots 5 %', did you mean",
        ),
        (
            ("[dots 50 %, raw rows]", "[dots 50 %, raw row]"),
            "claims.1.means.0.than.1: there is no 'raw row', did you mean 'raw rows'?",
        ),
        (("[dots 50 %, raw rows]", "[]"), "claims.1.means.0.than: is empty"),
        (
            ("[dots 50 %, raw rows]", "3"),
            "claims.1.means.0.than: expected the name of an arm or a list of names, found",
        ),
        (
            ("metric: linear, margin: 1", "metric: lniear, margin: 1"),
            "claims.0.means.0.metric: there is no 'lniear', did you mean 'linear'?",
        ),
        (
            ("than: dots 50 %, metric: linear", "metric: linear"),
            "claims.0.means.0: takes either 'than' with arms or 'limit'",
        ),
        (("margin: 1 ", "limit: 3 "), "claims.0.means.0: takes either 'than' with arms or 'limit'"),
        (
            ("than: dots 50 %, metric: linear, margin: 1", "limit: 1e9, metric: linear"),
            "claims.0.means.0.limit: 1000000000 is not",
        ),
        (("margin: 1 ", "margin: .nan "), "claims.0.means.0.margin: NaN is not a number from"),
        (("ratio: 1.5", "ratio: 0"), "claims.1.speed.0.ratio: 0 is not a number above 0"),
        (("set: [mask=dots]", "scales: [paper]"), "arms.1.scales: the table has no scale 'paper'"),
        (("note: good", "note: [good]"), "arms.0.paper: takes columns with a number or a text each"),
    ] {
        let error = table(&[changes]).unwrap_err().to_string();
        assert!(error.contains(wanted), "wanted {wanted}\nfound  {error}");
    }
}

#[test]
fn days_are_those_of_the_calendar() {
    let after = |seconds| day(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds));
    assert_eq!([after(0), after(951_782_400), after(1_764_028_799)], ["1970-01-01", "2000-02-29", "2025-11-24"]);
}
