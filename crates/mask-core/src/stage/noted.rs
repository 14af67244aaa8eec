//! Which artefacts a run was trained over, in its folder.

use std::path::{Path, PathBuf};

use super::artefact::State;
use super::depot::artefact;
use super::record::{FILE, Record};
use super::{Artefacts, Keyed, Measured, Stages};
use crate::run::Register;
use crate::{Error, Named, Result, store};

/// Which artefacts a run was trained over.
const STAGES: &str = "stages.json";

/// Writes keys and folders of a run's artefacts into its folder, so that it finds them again.
pub(crate) fn note(folder: &Path, made: &Artefacts) -> Result<()> {
    if made.is_empty() {
        return Ok(());
    }
    let place = |folder: &Path| std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let noted: Named<(&str, PathBuf)> =
        made.iter().map(|(name, made)| (name.to_owned(), (made.key.as_str(), place(&made.folder)))).collect();
    let text = serde_json::to_vec_pretty(&noted).map_err(|error| Error::Defect(error.to_string()))?;
    store::write_bytes(&folder.join(STAGES), &text)
}

/// What [`note`] wrote; nothing where there is no such file.
fn noted(folder: &Path) -> Result<Named<(String, PathBuf)>> {
    let path = folder.join(STAGES);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Named::new()),
        Err(error) => return Err(Error::io(&path, "reading")(error)),
    };
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::file(&path, format!("doesn't name the artefacts of a run ({error}); remove it")))
}

/// A resumed run must go on over the artefacts that it was begun with; asked before any is made.
pub(crate) fn same_artefacts(folder: &Path, keyed: &[Keyed]) -> Result<()> {
    let noted = noted(folder)?;
    for Keyed { name, key: now, .. } in keyed {
        if let Some((key, _)) = noted.get(name).filter(|(key, _)| key != now) {
            let [old, new] = [key, now].map(|key| key.get(..16).unwrap_or(key));
            let problem = format!(
                "was begun over the artefact {old} of stage {name}, which is {new} now: its data have changed; begin \
                 a new run"
            );
            return Err(Error::file(folder, problem));
        }
    }
    Ok(())
}

/// The artefacts that a run was trained over, by the keys and folders that it wrote into its folder.
///
/// # Errors
/// An artefact whose bytes have changed since.
pub(crate) fn recall(stages: &Stages, register: &Register, run: Option<&Path>) -> Result<Artefacts> {
    let noted = run.map(noted).transpose()?.unwrap_or_default();
    let mut all = Artefacts::none();
    for node in stages.nodes() {
        let (key, folder) = noted.get(&node.name).cloned().unwrap_or_default();
        let (state, measured) = match folder.join(FILE).is_file() {
            true => (State::Made, Record::check(&folder, node.stage.kind(), &key)?.measured),
            false => (State::Missing, Measured::new()),
        };
        all.insert(&node.name, artefact(stages, node, register, (key, folder), state, measured)?);
    }
    Ok(all)
}
