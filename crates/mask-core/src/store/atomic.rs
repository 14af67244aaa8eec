//! Files that are complete or not there.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::{Error, Result};

/// Temporary files that this process is writing.
static BUSY: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
static FREED: Condvar = Condvar::new();

fn busy() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    BUSY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A temporary file beside the one that it will replace; removed unless it was moved there, also by a panic.
struct Temporary {
    path: PathBuf,
    moved: bool,
}

impl Temporary {
    /// Waits while another thread writes the same file.
    fn claim(path: PathBuf) -> Self {
        let mut busy = busy();
        while !busy.insert(path.clone()) {
            busy = FREED.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        Self { path, moved: false }
    }

    fn create(&self) -> std::io::Result<File> {
        // What lies there is of a killed process that had our id. Removed, not opened: it may be a link.
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => File::create_new(&self.path),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.moved {
            // It may never have been made.
            let _ = std::fs::remove_file(&self.path);
        }
        busy().remove(&self.path);
        FREED.notify_all();
    }
}

/// Fills a file beside `path`, brings it to the disk, and moves it to its place: whoever looks, also after a power
/// failure, sees the old file or the whole new one.
pub(super) fn replace(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let failed = |error| Error::io(path, "writing")(error);
    let Some(name) = path.file_name() else {
        return Err(Error::file(path, "is no name of a file; give one"));
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.canonicalize().map_err(failed)?;
    let mut fresh = std::ffi::OsString::from(".");
    fresh.push(name);
    fresh.push(format!(".tmp-{}", std::process::id()));
    let mut fresh = Temporary::claim(folder.join(fresh));
    let mut writer = BufWriter::with_capacity(1 << 20, fresh.create().map_err(failed)?);
    if let Err(error) = fill(&mut writer) {
        // Dropped as it is, the writer would try once more to write what is left.
        let _ = writer.into_parts();
        return Err(error);
    }
    let file = writer.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    std::fs::rename(&fresh.path, folder.join(name)).map_err(failed)?;
    fresh.moved = true;
    // The move itself is on the disk when the folder is. Some file systems know no such order, and a folder may be
    // writable but not readable: the file is in place then too.
    use ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    match File::open(&folder).and_then(|folder| folder.sync_all()) {
        Err(error) if !matches!(error.kind(), InvalidInput | PermissionDenied | Unsupported) => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Writes bytes, complete or not at all.
///
/// # Errors
/// The disk is full or refuses ([`Error::Io`]); an older file is untouched then and nothing half-written is left.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, |file| file.write_all(bytes).map_err(Error::io(path, "writing")))
}

/// Removes what killed processes of this machine left half-written in a folder: files `.NAME.tmp-PID` whose process is
/// gone. A folder that other machines write to at the same time must not be swept: their processes aren't seen.
///
/// # Errors
/// The folder can't be read.
pub fn sweep(folder: &Path) -> Result<()> {
    let reading = || Error::io(folder, "reading the folder");
    let folder = folder.canonicalize().map_err(reading())?;
    // Without this table of processes all seem gone.
    if !Path::new("/proc/self").exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(&folder).map_err(reading())?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let pid = name.strip_prefix('.').and_then(|name| name.rsplit_once(".tmp-")).map(|(_, pid)| pid);
        let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        // In a container a new process often has the id of the killed one.
        let busy = busy();
        let alive = match pid == std::process::id() {
            true => busy.contains(&entry.path()),
            false => Path::new("/proc").join(pid.to_string()).exists(),
        };
        if !alive {
            // Another process may be sweeping as well.
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}
