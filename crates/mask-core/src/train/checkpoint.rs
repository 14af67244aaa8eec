//! Checkpoints: one safetensors file each, complete or not there.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tch::Tensor;

use crate::{Error, Named, Result, store};

/// What a run needs to go on.
#[derive(Debug)]
pub struct Checkpoint {
    /// Steps done.
    pub step: u64,
    /// Parameters and frozen tables.
    pub model: Named<Tensor>,
    /// The optimiser's state.
    pub optimiser: Named<Tensor>,
    /// What training fed back to the loader.
    pub state: Named<Tensor>,
    /// Step and held-out loss of the best checkpoint so far.
    pub best: Option<(u64, f64)>,
    /// The resolved recipe, so that a checkpoint can be used without its folder.
    pub recipe: String,
}

/// The parts of a checkpoint and the prefix of their names in the file.
const PARTS: [&str; 3] = ["model.", "optimiser.", "state."];

/// The `checkpoints` folder of a run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    /// The folder below a run's.
    #[must_use]
    pub fn of(run: &Path) -> Self {
        Self { folder: run.join("checkpoints") }
    }

    /// The file of a step.
    #[must_use]
    pub fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("step-{step:08}.safetensors"))
    }

    /// Steps that have a checkpoint, ascending.
    ///
    /// # Errors
    /// The folder can't be read.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            // Below a file there is none either; whoever makes the folder says so.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(Error::io(&self.folder, "reading the folder")(error)),
        };
        let step = |name: &str| name.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok();
        let mut steps: Vec<u64> = entries.filter_map(|entry| entry.ok()?.file_name().to_str().and_then(step)).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// Writes a checkpoint and its `last` and `best` names, then removes what needn't be kept.
    ///
    /// # Errors
    /// The disk is full or refuses; older checkpoints are untouched then.
    pub fn save(&self, checkpoint: &Checkpoint, keep: u64, keep_every: Option<u64>) -> Result<PathBuf> {
        std::fs::create_dir_all(&self.folder).map_err(Error::io(&self.folder, "making the folder"))?;
        store::sweep(&self.folder)?;
        let path = self.path(checkpoint.step);
        let mut tensors = Vec::new();
        let parts = [&checkpoint.model, &checkpoint.optimiser, &checkpoint.state];
        for (prefix, part) in PARTS.iter().zip(parts) {
            tensors.extend(part.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor.shallow_clone())));
        }
        let mut metadata = Named::from([
            ("format".to_owned(), "mask-checkpoint-1".to_owned()),
            ("step".to_owned(), checkpoint.step.to_string()),
            ("recipe".to_owned(), checkpoint.recipe.clone()),
        ]);
        if let Some((step, loss)) = checkpoint.best {
            // The bits, so that a comparison after a resume is the one before.
            metadata.insert("best".to_owned(), format!("{step} {}", loss.to_bits()));
        }
        store::write(&path, &tensors, &metadata)?;
        let best = checkpoint.best.map(|(step, _)| step);
        self.link("last", checkpoint.step)?;
        if let Some(best) = best.filter(|step| self.path(*step).exists()) {
            self.link("best", best)?;
        }
        let steps = self.steps()?;
        let newest = steps.iter().rev().take(keep.max(1) as usize).copied().collect::<Vec<_>>();
        for step in steps {
            let kept = newest.contains(&step) || Some(step) == best || keep_every.is_some_and(|k| step % k == 0);
            if !kept {
                let old = self.path(step);
                std::fs::remove_file(&old).map_err(Error::io(&old, "removing an old checkpoint"))?;
            }
        }
        Ok(path)
    }

    /// A second name for a checkpoint, replaced in one move.
    fn link(&self, name: &str, step: u64) -> Result<()> {
        let (link, fresh) =
            (self.folder.join(format!("{name}.safetensors")), self.folder.join(format!(".{name}.link")));
        let _ = std::fs::remove_file(&fresh);
        let target = self.path(step);
        let made = std::os::unix::fs::symlink(target.file_name().unwrap_or_default(), &fresh);
        made.and_then(|()| std::fs::rename(&fresh, &link)).map_err(Error::io(&link, "naming the checkpoint"))
    }

    /// The newest checkpoint.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn last(&self) -> Result<Checkpoint> {
        let steps = self.steps()?;
        let Some((step, older)) = steps.split_last() else {
            return Err(Error::file(&self.folder, "holds no checkpoint of a run"));
        };
        Self::read(&self.path(*step)).map_err(|error| match (error, older.last()) {
            (Error::File { path, problem }, Some(older)) => {
                Error::file(path, format!("{problem}; or remove it to go on from step {older}"))
            }
            (error, _) => error,
        })
    }

    /// Reads a checkpoint file.
    ///
    /// # Errors
    /// It is missing, damaged, or no checkpoint of ours.
    pub fn read(path: &Path) -> Result<Checkpoint> {
        let stored = store::read(path)?;
        let not_ours = || {
            let problem = "is a safetensors file, but no checkpoint of a run (its metadata lack format, step or recipe); \
                           Hugging Face folders are given by --hf";
            Error::file(path, problem)
        };
        let metadata = |key: &str| stored.metadata.get(key).ok_or_else(not_ours);
        if metadata("format")? != "mask-checkpoint-1" {
            return Err(not_ours());
        }
        let step = metadata("step")?.parse().map_err(|_| not_ours())?;
        let recipe = metadata("recipe")?.clone();
        let best = stored.metadata.get("best").and_then(|text| {
            let (step, bits) = text.split_once(' ')?;
            Some((step.parse().ok()?, f64::from_bits(bits.parse().ok()?)))
        });
        let mut parts: [Named<Tensor>; 3] = Default::default();
        for (name, tensor) in stored.tensors {
            let part = PARTS.iter().position(|prefix| name.starts_with(prefix)).ok_or_else(not_ours)?;
            parts[part].insert(name[PARTS[part].len()..].to_owned(), tensor);
        }
        let [model, optimiser, state] = parts;
        Ok(Checkpoint { step, model, optimiser, state, best, recipe })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(step: u64, best: Option<(u64, f64)>) -> Checkpoint {
        let tensors = || Named::from([("w".to_owned(), Tensor::from_slice(&[step as f32]))]);
        let recipe = "seed: 0\n".to_owned();
        Checkpoint { step, model: tensors(), optimiser: tensors(), state: Named::new(), best, recipe }
    }

    #[test]
    fn best_last_and_every_kth_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::of(folder.path());
        for step in 1..=9 {
            checkpoints.save(&checkpoint(step, Some((2, 0.5))), 2, Some(4)).unwrap();
        }
        assert_eq!(checkpoints.steps().unwrap(), [2, 4, 8, 9]);
        let last = checkpoints.last().unwrap();
        assert_eq!((last.step, last.best), (9, Some((2, 0.5))));
        assert_eq!(last.model["w"], Tensor::from_slice(&[9f32]));
        let named = |name: &str| Checkpoints::read(&folder.path().join("checkpoints").join(name)).unwrap().step;
        assert_eq!((named("last.safetensors"), named("best.safetensors")), (9, 2));
    }

    #[test]
    fn other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Checkpoints::of(folder.path()).last().is_err());
        let path = folder.path().join("x.safetensors");
        store::write(&path, &[("w".to_owned(), Tensor::from_slice(&[1f32]))], &Named::new()).unwrap();
        assert!(Checkpoints::read(&path).unwrap_err().to_string().contains("no checkpoint of a run"));
    }
}
