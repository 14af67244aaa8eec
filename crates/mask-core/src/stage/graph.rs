//! The stages of a recipe as a graph: who stands on whom, in which order they are made.

use super::{Mention, Reading, Stage, StageEntry};
use crate::method::MethodEntry;
use crate::recipe::{Mapping, Tree, Value, kind_of};
use crate::run::Register;
use crate::{Error, Named, Result};

/// A stage by its name, with the names of those that it stands on.
pub struct Node {
    /// Its name in the recipe.
    pub name: String,
    /// What it does.
    pub stage: Box<dyn Stage>,
    /// Names of its inputs, in the order of its keys, each once.
    pub inputs: Vec<String>,
}

/// The stages of a recipe, each after those that it stands on.
#[derive(Default)]
pub struct Stages {
    nodes: Vec<Node>,
    /// Stages that the method or the data name themselves.
    roots: Vec<String>,
}

/// The key of a recipe that holds its stages.
const STAGES: &str = "stages";

impl Stages {
    /// Reads the stages of a recipe. `mentions` are the keys of method and data that name stages.
    ///
    /// # Errors
    /// Keys that don't fit; a name that is no stage; stages that stand on themselves, or that nothing uses.
    pub fn read(
        register: &Register,
        tree: &Tree,
        entry: &'static MethodEntry,
        data: &Value,
        mentions: &[Mention],
    ) -> Result<Self> {
        let mapping: Mapping = tree.typed(&[STAGES])?;
        let names: Vec<String> = mapping.keys().map(|key| key.as_str().unwrap_or_default().to_owned()).collect();
        let plain = |name: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            !name.is_empty() && name.chars().all(fits)
        };
        if let Some(name) = names.iter().find(|name| !plain(name)) {
            return Err(tree.refuse(STAGES, format!("'{name}' is no name: letters, digits, '_' and '-' make one")));
        }
        let mut nodes = Named::new();
        for name in &names {
            nodes.insert(name.clone(), read(register, tree, name, entry, data)?);
        }
        let known = |path: &str, name: &str| match nodes.contains_key(name) {
            true => Ok(()),
            false => Err(tree.stranger(path, "stage", name, &names)),
        };
        for (path, name) in mentions {
            known(path, name)?;
        }
        for node in nodes.values() {
            for (path, name) in node.stage.inputs() {
                known(&format!("{STAGES}.{}.{path}", node.name), &name)?;
            }
        }
        let mut ordered = Vec::new();
        for name in &names {
            order(name, &nodes, &mut Vec::new(), &mut ordered).map_err(|circle| {
                tree.refuse(&format!("{STAGES}.{name}"), format!("stands on itself: {}", circle.join(" <- ")))
            })?;
        }
        let mut roots: Vec<String> = mentions.iter().map(|(_, name)| name.clone()).collect();
        roots.sort();
        roots.dedup();
        let mut used = Vec::new();
        for root in &roots {
            // There is no circle any more.
            let _ = order(root, &nodes, &mut Vec::new(), &mut used);
        }
        if let Some(idle) = names.iter().find(|name| !used.contains(name)) {
            let problem = "nothing uses this stage: name it in the method, the data or another stage, or remove it";
            return Err(tree.refuse(&format!("{STAGES}.{idle}"), problem));
        }
        let nodes = ordered.iter().filter_map(|name| nodes.remove(name)).collect();
        Ok(Self { nodes, roots })
    }

    /// Whether the recipe has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The stages, each after those that it stands on.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Names of those that method and data use themselves.
    #[must_use]
    pub fn roots(&self) -> &[String] {
        &self.roots
    }

    /// A stage by its name.
    ///
    /// # Errors
    /// There is none.
    pub fn node(&self, name: &str) -> Result<&Node> {
        let found = self.nodes.iter().find(|node| node.name == name);
        found.ok_or_else(|| Error::Defect(format!("the stage {name} left its recipe")))
    }

    /// The stages that some stand on, and themselves, as a recipe's `stages`, in the order of this recipe.
    ///
    /// # Errors
    /// A value that YAML can't hold.
    pub fn value_of(&self, roots: &[String]) -> Result<Value> {
        let mut wanted = roots.to_vec();
        for node in self.nodes.iter().rev() {
            if wanted.contains(&node.name) {
                wanted.extend(node.inputs.iter().cloned());
            }
        }
        let mut all = Mapping::new();
        for node in self.nodes.iter().filter(|node| wanted.contains(&node.name)) {
            all.insert(node.name.as_str().into(), node.stage.value()?);
        }
        Ok(Value::Mapping(all))
    }

    /// All stages as a recipe's `stages`, every key resolved.
    ///
    /// # Errors
    /// A value that YAML can't hold.
    pub fn value(&self) -> Result<Value> {
        self.value_of(&self.roots)
    }
}

fn read(register: &Register, tree: &Tree, name: &str, entry: &'static MethodEntry, data: &Value) -> Result<Node> {
    let all: Vec<&StageEntry> = super::KINDS.iter().chain(register.stages).collect();
    let kinds: Vec<&str> = all.iter().map(|entry| entry.kind).collect();
    let kind = tree.read(&[STAGES, name], |value| kind_of(value, &kinds).map(str::to_owned))?;
    let line = all.iter().find(|entry| entry.kind == kind);
    let line = line.ok_or_else(|| Error::Defect(format!("the stage {kind} left the register")))?;
    let reading = Reading { register, tree: tree.inside(&[STAGES, name], Some("kind")), data, entry };
    let stage = (line.read)(&reading)?;
    let mut inputs: Vec<String> = Vec::new();
    for (_, input) in stage.inputs() {
        if !inputs.contains(&input) {
            inputs.push(input);
        }
    }
    Ok(Node { name: name.to_owned(), stage, inputs })
}

/// Adds a stage after its inputs; the error is a circle of names.
fn order(
    name: &str,
    nodes: &Named<Node>,
    path: &mut Vec<String>,
    done: &mut Vec<String>,
) -> std::result::Result<(), Vec<String>> {
    if done.iter().any(|other| other == name) {
        return Ok(());
    }
    if let Some(start) = path.iter().position(|other| other == name) {
        return Err([&path[start..], &[name.to_owned()]].concat());
    }
    path.push(name.to_owned());
    for input in nodes.get(name).into_iter().flat_map(|node| &node.inputs) {
        order(input, nodes, path, done)?;
    }
    path.pop();
    done.push(name.to_owned());
    Ok(())
}
