//! Where artefacts lie, and how missing ones are made.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Instant;

use tch::Device;

use super::artefact::{Opener, State, folder_name};
use super::checksum::{Checksums, hash_text};
use super::graph::{Node, Stages};
use super::record::{FILE, FORMAT, Record};
use super::{Artefact, Artefacts, Measured, Workbench};
use crate::recipe::{Value, to_yaml};
use crate::run::{Register, commit, machine};
use crate::{Error, Named, Result};

/// Where artefacts lie: the environment variable `MASK_ARTEFACTS`, or `artefacts` below `runs`. Runs share them.
#[must_use]
pub fn artefacts_folder() -> PathBuf {
    match std::env::var_os("MASK_ARTEFACTS").filter(|folder| !folder.is_empty()) {
        Some(folder) => folder.into(),
        None => Path::new("runs").join("artefacts"),
    }
}

/// Sets the value at a key path to nothing.
fn blank(value: &mut Value, path: &str) {
    let mut at = value;
    for key in path.split('.') {
        let next = match at {
            Value::Mapping(mapping) => mapping.get_mut(key),
            Value::Sequence(list) => key.parse::<usize>().ok().and_then(|index| list.get_mut(index)),
            _ => None,
        };
        match next {
            Some(next) => at = next,
            None => return,
        }
    }
    *at = Value::Null;
}

/// What a stage's result hangs on, as a text: its keys without the names of its inputs, the inputs' keys, its data.
fn identity(node: &Node, keys: &Named<String>, data: Option<&str>) -> Result<String> {
    let mut value = node.stage.identity()?;
    let mut inputs = String::new();
    for (path, name) in node.stage.inputs() {
        blank(&mut value, &path);
        inputs.push_str(&format!("{path}: {}\n", keys.get(&name).map_or("", String::as_str)));
    }
    let data = data.unwrap_or("none");
    Ok(format!(
        "format: {FORMAT}\nkind: {}\ndata: {data}\ninputs:\n{inputs}keys:\n{}",
        node.stage.kind(),
        to_yaml(&value)
    ))
}

/// A stage with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyed {
    /// The stage's name in the recipe.
    pub name: String,
    /// 64 hexadecimal digits.
    pub key: String,
    /// The hash over the files that it reads.
    pub data: Option<String>,
    /// The artefact's folder.
    pub folder: PathBuf,
}

impl Keyed {
    /// Whether the artefact lies in its folder; its bytes aren't looked at.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.folder.join(FILE).is_file()
    }
}

/// A folder of artefacts.
pub struct Depot {
    folder: PathBuf,
}

impl Depot {
    /// The artefacts below a folder, which needn't be there yet.
    #[must_use]
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The key of each stage of a recipe, in the order of [`Stages::nodes`].
    ///
    /// # Errors
    /// Data that can't be read.
    pub fn keys(&self, stages: &Stages) -> Result<Vec<Keyed>> {
        let mut sums = Checksums::of(&self.folder);
        let mut keys = Named::new();
        let mut all = Vec::new();
        for node in stages.nodes() {
            let files = node.stage.files()?;
            let data = if files.is_empty() { None } else { Some(sums.over(&files)?) };
            let key = hash_text(&identity(node, &keys, data.as_deref())?);
            keys.insert(node.name.clone(), key.clone());
            let folder = self.folder.join(folder_name(node.stage.kind(), &key));
            all.push(Keyed { name: node.name.clone(), key, data, folder });
        }
        Ok(all)
    }

    /// Makes what a recipe's method and data need and what isn't there, and checks what is.
    ///
    /// # Errors
    /// An artefact whose bytes have changed, what a stage can't do, an interruption (the same command goes on).
    pub fn make(&self, stages: &Stages, register: &Register, data: &Value, by: (Device, usize)) -> Result<Artefacts> {
        if stages.is_empty() {
            return Ok(Artefacts::none());
        }
        std::fs::create_dir_all(&self.folder).map_err(Error::io(&self.folder, "making the folder"))?;
        let keyed = self.keys(stages)?;
        let mut work = Work { stages, register, data, by, keyed: &keyed, made: Artefacts::none() };
        stages.roots().iter().try_for_each(|root| work.ensure(root))?;
        Ok(work.made)
    }
}

/// Artefacts that are nowhere: see [`State::Imagined`].
///
/// # Errors
/// A recipe of a model that YAML can't hold.
pub fn imagine(stages: &Stages, register: &Register) -> Result<Artefacts> {
    let mut all = Artefacts::none();
    for node in stages.nodes() {
        let (folder, measured) = (PathBuf::from(format!("(stage {})", node.name)), Measured::new());
        all.insert(&node.name, artefact(stages, node, register, (String::new(), folder), State::Imagined, measured)?);
    }
    Ok(all)
}

/// The recipe of the model that a stage makes, with the stages that it stands on: a recipe that stands alone.
fn recipe_of(stages: &Stages, node: &Node) -> Result<Option<Value>> {
    let Some(model) = node.stage.model() else { return Ok(None) };
    let mut value = model.value.clone();
    if let Value::Mapping(keys) = &mut value {
        keys.insert("stages".into(), stages.value_of(&node.inputs)?);
    }
    Ok(Some(value))
}

pub(super) fn artefact(
    stages: &Stages,
    node: &Node,
    register: &Register,
    (key, folder): (String, PathBuf),
    state: State,
    measured: Measured,
) -> Result<Artefact> {
    let opener = recipe_of(stages, node)?.map(|recipe| Opener { register: *register, recipe });
    Ok(Artefact { kind: node.stage.kind().to_owned(), key, folder, state, measured, opener })
}

/// The stages of one recipe while they are made.
struct Work<'a> {
    stages: &'a Stages,
    register: &'a Register,
    data: &'a Value,
    by: (Device, usize),
    keyed: &'a [Keyed],
    made: Artefacts,
}

impl Work<'_> {
    fn ensure(&mut self, name: &str) -> Result<()> {
        if self.made.get(name).is_ok() {
            return Ok(());
        }
        let node = self.stages.node(name)?;
        let keyed = self.keyed.iter().find(|keyed| keyed.name == name);
        let keyed = keyed.ok_or_else(|| Error::Defect(format!("the stage {name} has no key")))?;
        if !keyed.is_there() {
            // What an artefact stood on is needed only where it has to be made.
            for input in &node.inputs {
                self.ensure(input)?;
            }
            let _lock = Lock::wait(&keyed.folder, name)?;
            if !keyed.is_there() {
                self.fill(node, keyed)?;
            }
        }
        let record = Record::check(&keyed.folder, node.stage.kind(), &keyed.key)?;
        tracing::info!("stage {name}: {} is there{}", keyed.folder.display(), told(&record.measured));
        let place = (keyed.key.clone(), keyed.folder.clone());
        self.made.insert(name, artefact(self.stages, node, self.register, place, State::Made, record.measured)?);
        Ok(())
    }

    /// Makes an artefact beside its place and moves it there.
    fn fill(&self, node: &Node, keyed: &Keyed) -> Result<()> {
        let begun = Instant::now();
        let part = beside(&keyed.folder, ".part");
        let goes_on = part.exists();
        std::fs::create_dir_all(&part).map_err(Error::io(&part, "making the folder"))?;
        let word = if goes_on { "going on with" } else { "making" };
        tracing::info!("stage {}: {word} {}", node.name, keyed.folder.display());
        let at = Workbench {
            name: &node.name,
            register: self.register,
            folder: &part,
            made: &self.made,
            data: node.stage.data().unwrap_or(self.data),
            recipe: recipe_of(self.stages, node)?,
            device: self.by.0,
            threads: self.by.1,
        };
        let measured = node.stage.make(&at).map_err(|error| match error {
            Error::Interrupted { step, .. } => {
                let checkpoint = format!("stage {} is saved, the same command goes on with it", node.name);
                Error::Interrupted { step, checkpoint }
            }
            other => other,
        })?;
        let stage = serde_json::to_value(node.stage.value()?).map_err(|error| Error::Defect(error.to_string()))?;
        let key_of = |name: &String| Ok((name.clone(), self.made.get(name)?.key.clone()));
        let record = Record {
            format: FORMAT,
            kind: node.stage.kind().to_owned(),
            key: keyed.key.clone(),
            stage,
            inputs: node.inputs.iter().map(key_of).collect::<Result<_>>()?,
            data: keyed.data.clone(),
            measured,
            files: Default::default(),
            machine: machine(self.by.0),
            commit: commit(),
            seconds: begun.elapsed().as_secs_f64(),
        };
        let record = record.write(&part)?;
        std::fs::rename(&part, &keyed.folder).map_err(Error::io(&keyed.folder, "naming the artefact"))?;
        tracing::info!("stage {}: made in {:.1} s{}", node.name, record.seconds, told(&record.measured));
        Ok(())
    }
}

/// Measured numbers as a tail of a log line.
fn told(measured: &Measured) -> String {
    let short = |value: &serde_json::Value| match value.as_f64().filter(|_| value.is_f64()) {
        Some(number) => format!("{number:.4}"),
        None => value.to_string(),
    };
    measured
        .iter()
        .filter(|(_, value)| value.is_number())
        .map(|(name, value)| format!(", {} {}", name.replace('_', " "), short(value)))
        .collect()
}

/// The path with something behind its last name.
fn beside(folder: &Path, tail: &str) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(tail);
    folder.with_file_name(name)
}

/// The right to make one artefact. It goes with the process, however that ends.
struct Lock(#[expect(dead_code, reason = "holds the lock for as long as it lives")] File);

impl Lock {
    /// Waits until nobody else makes it.
    fn wait(folder: &Path, name: &str) -> Result<Self> {
        let path = beside(folder, ".lock");
        let file = File::create(&path).map_err(Error::io(&path, "making the lock"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                tracing::info!("stage {name}: another process is making {}, waiting for it", folder.display());
                file.lock().map_err(Error::io(&path, "locking"))?;
            }
            Err(TryLockError::Error(error)) => return Err(Error::io(&path, "locking")(error)),
        }
        Ok(Self(file))
    }
}
