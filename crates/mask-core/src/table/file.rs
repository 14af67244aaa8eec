//! The file of a table: arms, seeds, metrics and claims, written before the runs.

use std::path::{Component, Path, PathBuf};

use super::config::{ClaimConfig, Scale, ScaleConfig, TableConfig};
use crate::recipe::{Tree, Value, kind_of};
use crate::run::{Overrides, RANDOM, Register, Resolved};
use crate::{Error, Result};

/// An arm at a scale, ready to run.
#[derive(Clone, Debug)]
pub struct Arm {
    /// Its name.
    pub name: String,
    /// Its name as a folder.
    pub folder: String,
    /// Its recipe.
    pub recipe: PathBuf,
    /// What is changed in it, as `--set` takes it.
    pub sets: Vec<String>,
    /// The paper's own figures, by column.
    pub paper: Vec<(String, String)>,
    /// Where it stands in the list of the file.
    place: String,
}

/// A table's file, read and checked.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name: the file's, without `.yaml`.
    pub name: String,
    /// Its file.
    pub file: PathBuf,
    /// What stands in it.
    pub config: TableConfig,
    /// What comparisons may name beside arms: the baselines of the runs.
    baselines: [&'static str; 2],
    tree: Tree,
}

/// The longest name of an arm or a claim.
const LONGEST: usize = 100;

impl Table {
    /// Reads a table's file.
    ///
    /// # Errors
    /// What can't be read or doesn't fit together, with its place.
    pub fn read(register: &Register, file: &Path) -> Result<Self> {
        let tree = Tree::load(file).map_err(of_a_table)?;
        Self::of(register, file, tree)
    }

    /// A tree that was loaded; `file` says where recipes are looked for.
    ///
    /// # Errors
    /// As [`Table::read`].
    pub fn of(register: &Register, file: &Path, tree: Tree) -> Result<Self> {
        let config: TableConfig = tree.typed(&[]).map_err(of_a_table)?;
        let name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let baselines = [RANDOM, register.raw];
        let table = Self { name, file: file.to_owned(), config, baselines, tree };
        table.check(register).map_err(of_a_table)?;
        Ok(table)
    }

    fn check(&self, register: &Register) -> Result<()> {
        let config = &self.config;
        let refuse = |path: &str, problem: String| Err(self.tree.refuse(path, problem));
        self.one_of("method", &register.methods.iter().map(|entry| entry.card.name).collect::<Vec<_>>())?;
        if config.seeds == 0 || config.seeds > 1000 {
            return refuse("seeds", format!("{} is not a number from 1 to 1000", config.seeds));
        }
        for (key, empty) in [
            ("title", config.title.trim().is_empty()),
            ("metrics", config.metrics.is_empty()),
            ("arms", config.arms.is_empty()),
            ("claims", config.claims.is_empty()),
            ("scales", self.scales().is_empty()),
        ] {
            if empty {
                return refuse(key, "is empty".to_owned());
            }
        }
        let named = |key: &str, names: Vec<&str>| {
            for (index, name) in names.iter().enumerate() {
                let path = format!("{key}.{index}.name");
                let odd = |c: char| c.is_control() || "|<>`".contains(c);
                if name.trim() != *name || name.is_empty() || name.contains(odd) || name.len() > LONGEST {
                    let takes = format!("takes 1 to {LONGEST} letters, none of | < > `, no space at its ends");
                    return Err(self.tree.refuse(&path, takes));
                }
                if key != "arms" && names[..index].contains(name) {
                    return Err(self.tree.refuse(&path, format!("'{name}' comes twice")));
                }
            }
            Ok(())
        };
        named("metrics", config.metrics.iter().map(|metric| metric.name.as_str()).collect())?;
        named("arms", config.arms.iter().map(|arm| arm.name.as_str()).collect())?;
        named("claims", config.claims.iter().map(|claim| claim.name.as_str()).collect())?;
        self.check_arms()?;
        self.check_claims()
    }

    fn check_arms(&self) -> Result<()> {
        for (index, arm) in self.config.arms.iter().enumerate() {
            if let Some(absent) = arm.scales.iter().flatten().find(|scale| self.scale(**scale).is_none()) {
                let problem = format!("the table has no scale '{}'", absent.word());
                return Err(self.tree.refuse(&format!("arms.{index}.scales"), problem));
            }
            for (column, figure) in arm.paper.iter().flatten() {
                if !(column.is_string() && (figure.is_string() || figure.is_number())) {
                    let problem = "takes columns with a number or a text each";
                    return Err(self.tree.refuse(&format!("arms.{index}.paper"), problem));
                }
            }
        }
        for scale in self.scales() {
            let mut seen: Vec<String> = self.baselines.map(folder).to_vec();
            for arm in self.arms_at(scale)? {
                if arm.folder.is_empty() {
                    let problem = format!("'{}' holds no letter that can stand in a folder's name", arm.name);
                    return Err(self.tree.refuse(&format!("{}.name", arm.place), problem));
                }
                if seen.contains(&arm.folder) {
                    let problem = format!("'{}' is too much like the name of another arm or baseline", arm.name);
                    return Err(self.tree.refuse(&format!("{}.name", arm.place), problem));
                }
                seen.push(arm.folder);
            }
        }
        Ok(())
    }

    fn check_claims(&self) -> Result<()> {
        let arms: Vec<&str> = self.config.arms.iter().map(|arm| arm.name.as_str()).collect();
        let all: Vec<&str> = arms.iter().copied().chain(self.baselines).collect();
        let metrics: Vec<&str> = self.config.metrics.iter().map(|metric| metric.name.as_str()).collect();
        for (number, claim) in self.config.claims.iter().enumerate() {
            let place = format!("claims.{number}");
            if claim.means().is_empty() && claim.speed().is_empty() {
                return Err(self.tree.refuse(&place, "compares nothing: it takes means, speed or both"));
            }
            for (index, means) in claim.means().iter().enumerate() {
                let place = format!("{place}.means.{index}");
                if means.than.is_some() == means.limit.is_some() {
                    return Err(self.tree.refuse(&place, "takes either 'than' with arms or 'limit' with a number"));
                }
                let than = means.than.as_ref().map(|than| ("than", than, &all));
                for (key, names, allowed) in than.into_iter().chain([("better", &means.better, &arms)]) {
                    let path = format!("{place}.{key}");
                    match names.0.len() {
                        0 => return Err(self.tree.refuse(&path, "is empty")),
                        1 if self.at(&path).is_some_and(Value::is_string) => self.one_of(&path, allowed)?,
                        count => (0..count).try_for_each(|n| self.one_of(&format!("{path}.{n}"), allowed))?,
                    }
                }
                self.one_of(&format!("{place}.metric"), &metrics)?;
                for (key, number) in [("margin", means.margin), ("limit", means.limit)] {
                    if let Some(number) = number.filter(|number| !(-1e6..=1e6).contains(number)) {
                        let problem = format!("{number} is not a number from -1e6 to 1e6");
                        return Err(self.tree.refuse(&format!("{place}.{key}"), problem));
                    }
                }
            }
            for (index, speed) in claim.speed().iter().enumerate() {
                let place = format!("{place}.speed.{index}");
                self.one_of(&format!("{place}.faster"), &arms)?;
                self.one_of(&format!("{place}.than"), &arms)?;
                if !(speed.ratio > 0.0 && speed.ratio <= 1e3) {
                    let problem = format!("{} is not a number above 0 and up to 1000", speed.ratio);
                    return Err(self.tree.refuse(&format!("{place}.ratio"), problem));
                }
            }
        }
        Ok(())
    }

    fn at(&self, path: &str) -> Option<&Value> {
        self.tree.value(&path.split('.').collect::<Vec<_>>())
    }

    /// That the text at a path is one of the names; the error proposes the nearest.
    fn one_of(&self, path: &str, names: &[&str]) -> Result<()> {
        self.tree.read(&path.split('.').collect::<Vec<_>>(), |value| kind_of(value, names).map(drop))
    }

    /// The scales that it has.
    #[must_use]
    pub fn scales(&self) -> Vec<Scale> {
        Scale::ALL.into_iter().filter(|scale| self.scale(*scale).is_some()).collect()
    }

    fn scale(&self, scale: Scale) -> Option<&ScaleConfig> {
        match scale {
            Scale::Mini => self.config.scales.mini.as_ref(),
            Scale::Paper => self.config.scales.paper.as_ref(),
        }
    }

    /// The arms of a scale.
    ///
    /// # Errors
    /// The table hasn't got the scale, or a recipe isn't there.
    pub fn arms_at(&self, scale: Scale) -> Result<Vec<Arm>> {
        let Some(under) = self.scale(scale) else {
            return Err(self.tree.refuse("scales", format!("the table has no scale '{}'", scale.word())));
        };
        let mut arms = Vec::new();
        for (index, arm) in self.config.arms.iter().enumerate() {
            if arm.scales.as_ref().is_some_and(|scales| !scales.contains(&scale)) {
                continue;
            }
            let place = format!("arms.{index}");
            let named = |recipe: &PathBuf| clean(&self.file.parent().unwrap_or(Path::new("")).join(recipe));
            let (recipe, key) = match &arm.recipe {
                Some(recipe) => (named(recipe), format!("{place}.recipe")),
                None => (named(&under.recipe), format!("scales.{}.recipe", scale.word())),
            };
            if !recipe.is_file() {
                return Err(self.tree.refuse(&key, format!("{} is no file", recipe.display())));
            }
            let mut sets = Vec::new();
            for (changes, set) in [(&under.changes, &under.set), (&arm.changes, &arm.set)] {
                for (key, value) in changes.iter().flatten() {
                    let text = serde_json::to_string(value).map_err(|error| self.tree.refuse(&place, error))?;
                    let key = key.as_str().ok_or_else(|| self.tree.refuse(&place, "changes: takes keys of recipes"))?;
                    sets.push(format!("{key}={text}"));
                }
                sets.extend(set.iter().flatten().cloned());
            }
            let figure = |(column, figure): (&Value, &Value)| {
                let text =
                    figure.as_str().map_or_else(|| crate::recipe::to_yaml(figure).trim().to_owned(), str::to_owned);
                (column.as_str().unwrap_or_default().to_owned(), text)
            };
            arms.push(Arm {
                name: arm.name.clone(),
                folder: folder(&arm.name),
                recipe,
                sets,
                paper: arm.paper.iter().flatten().map(figure).collect(),
                place,
            });
        }
        if arms.is_empty() {
            return Err(self.tree.refuse("arms", format!("none is of the scale '{}'", scale.word())));
        }
        Ok(arms)
    }

    /// The claims that a scale can decide: those that name none but its arms.
    pub(super) fn claims_at(&self, arms: &[Arm]) -> Vec<&ClaimConfig> {
        let there = |name: &str| self.baselines.contains(&name) || arms.iter().any(|arm| arm.name == name);
        self.config.claims.iter().filter(|claim| claim.arms().all(there)).collect()
    }

    /// An arm's recipe with a seed.
    ///
    /// # Errors
    /// Keys that aren't there or don't fit; named with the arm's place in the table.
    pub fn resolve(&self, register: &Register, arm: &Arm, seed: u64) -> Result<Resolved> {
        let overrides = Overrides { sets: arm.sets.clone(), seed: Some(seed), steps: None };
        Resolved::read(register, &arm.recipe, &overrides).map_err(|error| match error {
            Error::Recipe { place, problem } if place.starts_with("--set") => {
                self.tree.refuse(&arm.place, format!("arm '{}': {problem}", arm.name))
            }
            other => other,
        })
    }
}

/// The tree speaks of recipes.
fn of_a_table(error: Error) -> Error {
    match error {
        Error::Recipe { place, problem } => {
            let problem = problem.replace("the recipe", "the table").replace("a recipe", "a table");
            Error::Recipe { place, problem }
        }
        other => other,
    }
}

/// A name as that of a folder.
fn folder(name: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || ".-_".contains(c) { c } else { ' ' };
    let text: String = name.to_lowercase().chars().map(plain).collect();
    text.split_whitespace().collect::<Vec<_>>().join("-").trim_start_matches('.').to_owned()
}

/// A path without `.` and, where it can be told without the disk, `..`.
fn clean(path: &Path) -> PathBuf {
    let mut parts: Vec<Component<'_>> = Vec::new();
    for part in path.components() {
        match (part, parts.last()) {
            (Component::CurDir, _) => {}
            (Component::ParentDir, Some(Component::Normal(_))) => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.into_iter().collect()
}
