//! Folders of image files.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use mask_core::{Error, Result};

use super::{
    decode::{decode, size},
    raster::Raster,
    source::ImageSource,
};

/// Endings of the files that count as pictures, whatever their case; what they hold is told by content when read.
const ENDINGS: [&str; 6] = ["jpg", "jpeg", "jpe", "jfif", "png", "webp"];

/// The pictures below a folder, in byte order of their paths relative to it.
///
/// **Classes.** If every picture lies in a folder below the root, the root's folders are the classes, sorted by name
/// (byte order), and a picture's class is the first part of its path, however deep it lies. A folder without a picture
/// keeps its number, so that two halves of a data set number alike. If at least one picture lies in the root itself,
/// there are no classes and no labels, and all pictures count, those in folders too.
///
/// **Files.** Names that start with a dot are skipped, folders and files alike. Links are followed, but not back into a
/// folder that is being read. Files that don't end in jpg, jpeg, jpe, jfif, png or webp are ignored and counted.
#[derive(Debug)]
pub struct ImageFolder {
    root: PathBuf,
    /// Relative to the root.
    files: Vec<PathBuf>,
    labels: Vec<u32>,
    classes: Vec<String>,
    ignored: usize,
}

impl ImageFolder {
    /// Lists the pictures below `root`; with `classes`, labels follow that list instead of the folder's own order, as a
    /// held-out folder needs where it lacks a class.
    ///
    /// # Errors
    /// A folder can't be read, there is no picture, or a folder is not among `classes`.
    pub fn open(root: &Path, classes: Option<&[String]>) -> Result<Self> {
        if !root.is_dir() {
            let problem = if root.exists() { "is no folder" } else { "does not exist" };
            return Err(Error::file(root, format!("{problem}; name the folder of the images by the recipe's `path`")));
        }
        let mut found = Found::default();
        found.walk(root, Path::new(""), &mut Vec::new())?;
        let Found { mut files, mut folders, ignored } = found;
        let count = ignored.values().sum();
        if files.is_empty() {
            let most = ignored.iter().max_by_key(|&(_, n)| n).map(|(ending, n)| match ending.as_str() {
                "" => format!("; {count} other files were ignored, {n} of them without an ending"),
                ending => format!("; {count} other files were ignored, {n} of them .{ending}"),
            });
            let problem = format!("holds no {} file{}", ENDINGS.join(", "), most.unwrap_or_default());
            return Err(Error::file(root, problem));
        }
        let key = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
        files.sort_by_cached_key(|path| key(path));
        folders.sort_by_cached_key(|path| key(path));
        let mut source = Self { root: root.to_owned(), files, labels: Vec::new(), classes: Vec::new(), ignored: count };
        if source.files.iter().all(|file| file.components().count() > 1) {
            source.label_all(&folders, classes)?;
        }
        Ok(source)
    }

    /// Number of files that were ignored since their names don't end as an image's.
    #[must_use]
    pub fn ignored(&self) -> usize {
        self.ignored
    }

    /// The pictures' paths, in order.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().map(|file| self.root.join(file)).collect()
    }

    /// Numbers the classes and labels every file with the first part of its path.
    fn label_all(&mut self, folders: &[PathBuf], classes: Option<&[String]>) -> Result<()> {
        let name = |folder: &OsStr| folder.to_string_lossy().into_owned();
        self.classes =
            classes.map_or_else(|| folders.iter().map(|f| name(f.as_os_str())).collect(), <[String]>::to_vec);
        let numbers: BTreeMap<&str, u32> = self.classes.iter().map(String::as_str).zip(0..).collect();
        for file in &self.files {
            let folder = name(file.components().next().map(|part| part.as_os_str()).unwrap_or_default());
            let Some(&number) = numbers.get(folder.as_str()) else {
                let problem = format!(
                    "is not among the {} classes of the training data: rename or remove the folder",
                    self.classes.len()
                );
                return Err(Error::file(self.root.join(&folder), problem));
            };
            self.labels.push(number);
        }
        Ok(())
    }

    /// # Errors
    /// There is no picture `index`.
    fn path(&self, index: usize) -> Result<PathBuf> {
        let file = self.files.get(index);
        let beyond = || Error::value("image", format!("{index} is beyond the last of {} images", self.files.len()));
        file.map(|file| self.root.join(file)).ok_or_else(beyond)
    }
}

impl ImageSource for ImageFolder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.get(index).copied()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The path relative to the folder.
    fn name(&self, index: usize) -> String {
        self.files.get(index).map_or_else(|| format!("#{index}"), |file| file.to_string_lossy().into_owned())
    }

    fn read(&self, index: usize) -> Result<Raster> {
        let path = self.path(index)?;
        decode(&fs::read(&path).map_err(Error::io(&path, "reading the image"))?, &path)
    }

    fn size_of(&self, index: usize) -> Result<[usize; 3]> {
        let path = self.path(index)?;
        size(&fs::read(&path).map_err(Error::io(&path, "reading the image"))?, &path)
    }
}

/// What a walk has found.
#[derive(Default)]
struct Found {
    files: Vec<PathBuf>,
    /// Folders of the root.
    folders: Vec<PathBuf>,
    /// Number of other files by ending.
    ignored: BTreeMap<String, usize>,
}

impl Found {
    /// Lists `root/below` and what lies under it; `above` holds the folders that are being read.
    fn walk(&mut self, root: &Path, below: &Path, above: &mut Vec<PathBuf>) -> Result<()> {
        let here = root.join(below);
        let real = here.canonicalize().map_err(Error::io(&here, "reading the folder"))?;
        if above.contains(&real) {
            return Ok(());
        }
        above.push(real);
        for entry in fs::read_dir(&here).map_err(Error::io(&here, "reading the folder"))? {
            let entry = entry.map_err(Error::io(&here, "reading the folder"))?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = below.join(&name);
            let kind = entry.file_type().map_err(Error::io(entry.path(), "reading"))?;
            // A link counts as what it leads to; one that leads nowhere is a picture that can't be read.
            let target =
                if kind.is_symlink() { fs::metadata(entry.path()).ok().map(|m| m.file_type()) } else { Some(kind) };
            if target.is_some_and(|t| t.is_dir()) {
                self.walk(root, &path, above)?;
                if above.len() == 1 {
                    self.folders.push(path);
                }
                continue;
            }
            let ending = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
            if ENDINGS.contains(&ending.as_str()) && target.is_none_or(|t| t.is_file()) {
                self.files.push(path);
            } else {
                *self.ignored.entry(ending).or_default() += 1;
            }
        }
        above.pop();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(value: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
        image::ImageEncoder::write_image(encoder, &[value; 6], 3, 2, image::ExtendedColorType::L8).unwrap();
        bytes
    }

    /// A folder with these files, each a picture of its number unless bytes are given.
    fn folder(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (i, file) in files.iter().enumerate() {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, png(i as u8)).unwrap();
        }
        root
    }

    fn names(source: &ImageFolder) -> Vec<String> {
        (0..source.len()).map(|i| source.name(i)).collect()
    }

    #[test]
    fn a_class_per_folder() {
        let root = folder(&["b/x.PNG", "a/deep/er/z.jpg", "a/y.webp", "a/.hidden.png", ".git/q.png", "a/notes.txt"]);
        fs::create_dir(root.path().join("aa")).unwrap();
        let source = ImageFolder::open(root.path(), None).unwrap();
        assert_eq!(names(&source), ["a/deep/er/z.jpg", "a/y.webp", "b/x.PNG"]);
        assert_eq!(source.classes(), ["a", "aa", "b"]);
        assert_eq!((0..4).map(|i| source.label(i)).collect::<Vec<_>>(), [Some(0), Some(0), Some(2), None]);
        assert_eq!(source.ignored(), 1);
        assert_eq!(source.size_of(2).unwrap(), [1, 2, 3]);
        assert_eq!(source.read(1).unwrap(), Raster::new(1, 2, 3, vec![2; 6]).unwrap());
        assert!(source.read(3).is_err() && source.size_of(usize::MAX).is_err());
    }

    #[test]
    fn one_picture_in_the_root_makes_all_unlabelled() {
        let source = ImageFolder::open(folder(&["b/x.png", "c.png", "a/y.png"]).path(), None).unwrap();
        assert_eq!(names(&source), ["a/y.png", "b/x.png", "c.png"]);
        assert_eq!((source.classes().len(), source.label(0)), (0, None));
    }

    #[test]
    fn given_classes_number_the_labels() {
        let root = folder(&["b/x.png"]);
        let classes = ["a".to_owned(), "b".to_owned()];
        let source = ImageFolder::open(root.path(), Some(&classes)).unwrap();
        assert_eq!((source.label(0), source.classes()), (Some(1), &classes[..]));
        let line = ImageFolder::open(root.path(), Some(&classes[..1])).unwrap_err().to_string();
        assert!(line.contains("/b: is not among the 1 classes"), "{line}");
    }

    #[test]
    fn an_unreadable_picture_concerns_itself_alone() {
        let root = folder(&["a.png", "b.jpg"]);
        fs::write(root.path().join("b.jpg"), "no picture").unwrap();
        fs::write(root.path().join("c.jpg"), "").unwrap();
        let source = ImageFolder::open(root.path(), None).unwrap();
        assert!(source.read(0).is_ok());
        for (index, name) in [(1, "b.jpg"), (2, "c.jpg")] {
            assert!(source.read(index).unwrap_err().to_string().contains(name));
            assert!(source.size_of(index).unwrap_err().to_string().contains(name));
        }
    }

    #[test]
    fn without_pictures_there_is_an_error_that_says_what_was_seen() {
        let root = folder(&["x.tif", "d/y.TIF", "z"]);
        let line = ImageFolder::open(root.path(), None).unwrap_err().to_string();
        assert!(line.contains("3 other files were ignored, 2 of them .tif"), "{line}");
        assert!(ImageFolder::open(&root.path().join("none"), None).is_err());
        assert!(ImageFolder::open(&root.path().join("z"), None).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_but_not_in_circles() {
        let root = folder(&["a/x.png", "b/y.png"]);
        std::os::unix::fs::symlink(root.path(), root.path().join("a/loop")).unwrap();
        std::os::unix::fs::symlink(root.path().join("b"), root.path().join("c")).unwrap();
        std::os::unix::fs::symlink(root.path().join("nowhere"), root.path().join("b/gone.png")).unwrap();
        let source = ImageFolder::open(root.path(), None).unwrap();
        assert_eq!(names(&source), ["a/x.png", "b/gone.png", "b/y.png", "c/gone.png", "c/y.png"]);
        assert_eq!(source.classes(), ["a", "b", "c"]);
        assert!(source.read(1).is_err());
    }
}
