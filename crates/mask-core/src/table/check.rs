//! `table --check`: files, pages and quoted figures against the measured numbers.

use std::path::{Path, PathBuf};

use super::config::Scale;
use super::file::Table;
use super::results::Results;
use super::{experiments, find, named, results, results_path, tables};
use crate::run::Register;
use crate::{Error, Result};

/// Holds tables (all of them where no name is given) against their results, and what README, docs and recipe heads
/// quote against both; gives a line a difference. Nothing is run.
///
/// # Errors
/// A table, a recipe or a results file that can't be read.
pub fn check(register: &Register, name: Option<&str>) -> Result<Vec<String>> {
    let names = match name {
        Some(name) => vec![name.to_owned()],
        None => tables(register),
    };
    let mut lines = Vec::new();
    for name in &names {
        let table = Table::read(register, &find(register, name)?)?;
        for scale in table.scales() {
            for arm in table.arms_at(scale)? {
                table.resolve(register, &arm, 0)?;
            }
        }
        for scale in Scale::ALL {
            if let Some(found) = results(register, name, scale)? {
                lines.extend(against(register, &table, &found)?);
            }
        }
    }
    if name.is_none() {
        let folder = experiments(register).join("results");
        for stray in named(&folder, ".json") {
            let table = stray.strip_suffix(".paper").unwrap_or(&stray);
            if !names.iter().any(|name| name == table) {
                lines.push(format!(
                    "{}: there is no table '{table}'",
                    folder.join(&stray).with_extension("json").display()
                ));
            }
        }
    }
    for path in quoting(register)? {
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "reading"))?;
        for (number, line) in text.lines().enumerate() {
            for mark in marks(line) {
                if name.is_none_or(|name| mark.table == name)
                    && let Some(problem) = mark.problem(register)?
                {
                    lines.push(format!("{}:{}: {problem}", path.display(), number + 1));
                }
            }
        }
    }
    Ok(lines)
}

/// What a table's file names and its results lack, and the other way round.
pub(super) fn misfits(found: &Results, table: &Table) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    if !table.scales().contains(&found.scale) {
        return Ok(vec![format!("is of the scale '{}', which the table lacks", found.scale.word())]);
    }
    let arms = table.arms_at(found.scale)?;
    for arm in found.arms.iter().filter(|arm| !arms.iter().any(|a| a.name == arm.name)) {
        lines.push(format!("names the arm '{}', which the table lacks", arm.name));
    }
    for arm in arms.iter().filter(|arm| !found.arms.iter().any(|a| a.name == arm.name)) {
        lines.push(format!("lacks the arm '{}'; run the table", arm.name));
    }
    for metric in &table.config.metrics {
        let measured = found.metrics.iter().find(|m| m.name == metric.name);
        if measured.is_none_or(|m| m.percent() != metric.percent()) {
            lines.push(format!("lacks the metric '{}' in the unit of the table; run the table", metric.name));
        }
    }
    Ok(lines)
}

/// The first line in which two texts differ.
fn difference(found: &str, wanted: &str) -> Option<usize> {
    if found == wanted {
        return None;
    }
    let same = found.lines().zip(wanted.lines()).take_while(|(a, b)| a == b).count();
    Some(same + 1)
}

fn against(register: &Register, table: &Table, found: &Results) -> Result<Vec<String>> {
    let json = results_path(register, &table.name, found.scale);
    let misfits = misfits(found, table)?;
    if !misfits.is_empty() {
        return Ok(misfits.into_iter().map(|line| format!("{}: {line}", json.display())).collect());
    }
    let read = |path: &Path| std::fs::read_to_string(path).map_err(Error::io(path, "reading"));
    let derived = found.clone().derive(table)?;
    let rewrite = format!("table {} --rewrite", table.name);
    let mut lines = Vec::new();
    if let Some(line) = difference(&read(&json)?, &derived.text()?) {
        let why = "is not what its numbers and the table's file give";
        lines.push(format!("{}:{line}: {why}; mend it by '{rewrite}'", json.display()));
    }
    for (ending, wanted) in [("md", derived.page()), ("svg", derived.picture())] {
        let path = json.with_file_name(format!("{}.{ending}", found.stem()));
        if !path.is_file() {
            lines.push(format!("{}: is missing; make it by '{rewrite}'", path.display()));
        } else if let Some(line) = difference(&read(&path)?, &wanted) {
            lines.push(format!("{}:{line}: is not what the JSON gives; mend it by '{rewrite}'", path.display()));
        }
    }
    Ok(lines)
}

/// Files that may quote figures.
fn quoting(register: &Register) -> Result<Vec<PathBuf>> {
    let of = |folder: &Path, ending: &str| -> Vec<PathBuf> {
        named(folder, ending).into_iter().map(|name| folder.join(name + ending)).collect()
    };
    let mut files: Vec<PathBuf> = of(Path::new("."), ".md")
        .into_iter()
        .map(|path| path.strip_prefix(".").map_or(path.clone(), Path::to_owned))
        .collect();
    files.extend(of(Path::new("docs"), ".md"));
    files.extend(of(&experiments(register), ".yaml"));
    Ok(files)
}

/// A quoted figure: `<!-- table:NAME arm=ARM metric=METRIC -->78.1<!-- -->` in Markdown,
/// `# table:NAME arm=ARM metric=METRIC: 78.1` in YAML; `claim=CLAIM` instead quotes a verdict.
#[derive(Debug, PartialEq, Eq)]
struct Mark<'a> {
    table: &'a str,
    what: &'a str,
    quoted: &'a str,
}

fn marks(line: &str) -> Vec<Mark<'_>> {
    fn split<'a>(inner: &'a str, quoted: &'a str) -> Mark<'a> {
        let (table, what) = inner.split_once(' ').unwrap_or((inner, ""));
        Mark { table: table.trim(), what: what.trim(), quoted: quoted.trim() }
    }
    let mut found = Vec::new();
    if let Some(rest) = line.trim_start().strip_prefix("# table:") {
        let (inner, quoted) = rest.rsplit_once(": ").unwrap_or((rest, ""));
        found.push(split(inner, quoted));
    }
    let mut rest = line;
    while let Some((_, after)) = rest.split_once("<!-- table:") {
        let Some((inner, behind)) = after.split_once("-->") else { break };
        let quoted = behind.split("<!--").next().unwrap_or_default();
        found.push(split(inner, quoted));
        rest = behind;
    }
    found
}

impl Mark<'_> {
    /// What is wrong with the quotation.
    fn problem(&self, register: &Register) -> Result<Option<String>> {
        if !tables(register).iter().any(|name| name == self.table) {
            // Another modality's binary looks after its own.
            let others = std::fs::read_dir("experiments").into_iter().flatten().flatten();
            let elsewhere = others.map(|entry| entry.path().join("tables").join(format!("{}.yaml", self.table)));
            let known = elsewhere.into_iter().any(|path| path.is_file());
            return Ok((!known).then(|| format!("there is no table '{}'", self.table)));
        }
        let Some(found) = results(register, self.table, Scale::Mini)? else {
            return Ok(Some(format!("quotes the table '{}', which has no results yet", self.table)));
        };
        let right = if let Some(claim) = self.what.strip_prefix("claim=") {
            found.claims.iter().find(|c| c.name == claim).map(|claim| claim.verdict.word().to_owned())
        } else {
            let names = self.what.strip_prefix("arm=").and_then(|rest| rest.rsplit_once(" metric="));
            names.and_then(|(arm, metric)| found.figure(arm.trim(), metric.trim(), self.quoted.contains('±')))
        };
        Ok(match right {
            None => Some(format!("the results of '{}' have no {}", self.table, self.what)),
            Some(right) if right == self.quoted => None,
            Some(right) => {
                Some(format!("quotes '{}' for {} {}, the results have '{right}'", self.quoted, self.table, self.what))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found() {
        let line = "MAE <!-- table:a arm=75 % metric=linear -->78.1 ± 0.4<!-- --> and <!-- table:b claim=x y -->undecided<!-- -->.";
        let wanted = [
            Mark { table: "a", what: "arm=75 % metric=linear", quoted: "78.1 ± 0.4" },
            Mark { table: "b", what: "claim=x y", quoted: "undecided" },
        ];
        assert_eq!(marks(line), wanted);
        let wanted = [Mark { table: "a", what: "arm=block: 75 % metric=knn", quoted: "70.0" }];
        assert_eq!(marks("# table:a arm=block: 75 % metric=knn: 70.0"), wanted);
        assert_eq!(marks("# a table: 70.0 <!-- other --> text"), []);
    }

    #[test]
    fn the_first_differing_line_is_named() {
        assert_eq!(difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(difference("a\nb\n", "a\nc\n"), Some(2));
        assert_eq!(difference("a\n", "a\nb\n"), Some(2));
    }
}
