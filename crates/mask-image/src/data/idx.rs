//! IDX files, the format of MNIST and its successors.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use mask_core::{Error, Result};

use super::{raster::Raster, source::ImageSource};

/// Pictures of one IDX file, held in memory: `[count, height, width]` or `[count, height, width, channels]` unsigned
/// bytes, with a file of labels `[count]` or without.
#[derive(Debug)]
pub struct IdxImages {
    path: PathBuf,
    count: usize,
    /// Channels, height, width.
    shape: [usize; 3],
    values: Vec<u8>,
    labels: Vec<u8>,
    classes: Vec<String>,
}

impl IdxImages {
    /// Reads `images` and, where given, `labels`; each may be compressed by gzip. `classes` names the labels from 0 on;
    /// without it they are called by their numbers.
    ///
    /// # Errors
    /// A file is missing, is no IDX file of unsigned bytes, is shorter or longer than its header says, or holds no
    /// picture; labels are not as many as pictures or lie beyond `classes`. Memory is only taken for what a file holds.
    pub fn open(images: &Path, labels: Option<&Path>, classes: Option<&[String]>) -> Result<Self> {
        let (dimensions, values) = read(images, "images, 3 or 4 dimensions", &[3, 4])?;
        let (count, shape) = match dimensions[..] {
            [count, height, width] => (count, [1, height, width]),
            [count, height, width, channels] => (count, [channels, height, width]),
            _ => return Err(Error::Defect(format!("an IDX file of rank {} passed", dimensions.len()))),
        };
        if values.is_empty() {
            return Err(Error::file(images, format!("holds no images: its dimensions are {dimensions:?}")));
        }
        let labels_of = |path: &Path| -> Result<(Vec<u8>, Vec<String>)> {
            let (_, found) = read(path, "labels, 1 dimension", &[1])?;
            if found.len() != count {
                let problem = format!(
                    "holds {} labels, but {} holds {count} images: give the two files of one set",
                    found.len(),
                    images.display()
                );
                return Err(Error::file(path, problem));
            }
            let highest = found.iter().copied().max().unwrap_or(0);
            let classes = classes.map_or_else(|| (0..=highest).map(|c| c.to_string()).collect(), <[_]>::to_vec);
            if let Some(at) = found.iter().position(|&label| usize::from(label) >= classes.len()) {
                let problem = format!(
                    "label {at} (from 0) is {}, but {} classes are named: name all of them or mend the labels",
                    found[at],
                    classes.len()
                );
                return Err(Error::file(path, problem));
            }
            Ok((found, classes))
        };
        let (labels, classes) = labels.map(labels_of).transpose()?.unwrap_or_default();
        Ok(Self { path: images.to_owned(), count, shape, values, labels, classes })
    }

    /// # Errors
    /// There is no picture `index`.
    fn at(&self, index: usize) -> Result<&[u8]> {
        let size = self.values.len() / self.count;
        self.values
            .chunks_exact(size)
            .nth(index)
            .ok_or_else(|| Error::value("image", format!("{index} is beyond the last of {} images", self.count)))
    }
}

impl ImageSource for IdxImages {
    fn len(&self) -> usize {
        self.count
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.get(index).copied().map(u32::from)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn name(&self, index: usize) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        let name = ["-idx3-ubyte", "-idx4-ubyte", ".idx"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        format!("{name}#{index}")
    }

    fn read(&self, index: usize) -> Result<Raster> {
        let [channels, height, width] = self.shape;
        Raster::new(channels, height, width, self.at(index)?.to_vec())
    }

    fn size_of(&self, index: usize) -> Result<[usize; 3]> {
        self.at(index).map(|_| self.shape)
    }
}

/// Deflate makes at most 1,032 bytes of one.
const MOST_FROM_ONE: u64 = 1_032;

/// The dimensions and values of one file; `what` says in words what `ranks` are accepted.
fn read(path: &Path, what: &str, ranks: &[u8]) -> Result<(Vec<usize>, Vec<u8>)> {
    let mut file = File::open(path).map_err(|error| missing(path, error))?;
    let about = file.metadata().map_err(Error::io(path, "reading"))?;
    if !about.is_file() {
        return Err(Error::file(path, format!("is not a file: give an IDX file of {what}")));
    }
    let mut start = [0; 2];
    let zipped = file.read_exact(&mut start).is_ok() && start == [0x1f, 0x8b];
    file.rewind().map_err(Error::io(path, "reading"))?;
    let file = BufReader::new(file);
    let mut reader: Box<dyn Read> = if zipped { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };

    let mut magic = [0; 4];
    reader.read_exact(&mut magic).map_err(|error| broken(path, zipped, error))?;
    let rank = match magic {
        [0, 0, 8, rank] if ranks.contains(&rank) => usize::from(rank),
        [0, 0, 8, rank @ 1..=8] => {
            return Err(Error::file(path, format!("has {rank} dimensions: give an IDX file of {what}")));
        }
        [0, 0, kind @ (9 | 11..=14), _] => {
            let problem =
                format!("holds values of type 0x{kind:02x}: only unsigned bytes (0x08) are read, convert them");
            return Err(Error::file(path, problem));
        }
        [a, b, c, d] => {
            let problem =
                format!("starts with {a:02x} {b:02x} {c:02x} {d:02x}: no IDX file of unsigned bytes ({what})");
            return Err(Error::file(path, problem));
        }
    };
    let mut dimensions = Vec::with_capacity(rank);
    for _ in 0..rank {
        let mut dimension = [0; 4];
        reader.read_exact(&mut dimension).map_err(|error| broken(path, zipped, error))?;
        dimensions.push(u32::from_be_bytes(dimension) as usize);
    }
    let header = 4 + 4 * rank as u64;
    let length = dimensions.iter().try_fold(1u64, |product, &d| product.checked_mul(d as u64));
    let length = length.filter(|&l| {
        let whole = l.saturating_add(header);
        if zipped { whole <= about.len().saturating_mul(MOST_FROM_ONE) } else { whole == about.len() }
    });
    let Some(length) = length.and_then(|l| usize::try_from(l).ok()) else {
        let problem = format!(
            "its header says {dimensions:?} values, which doesn't fit the file's {} bytes: it is truncated or damaged, \
             fetch it again",
            about.len()
        );
        return Err(Error::file(path, problem));
    };
    let values = take(&mut reader, length).map_err(|error| broken(path, zipped, error))?;
    match reader.read(&mut [0]) {
        Ok(0) => Ok((dimensions, values)),
        Ok(_) => {
            Err(Error::file(path, format!("holds more than the {dimensions:?} values of its header: fetch it again")))
        }
        Err(error) => Err(broken(path, zipped, error)),
    }
}

/// Reads exactly `length` bytes, taking memory as they come.
fn take(reader: &mut dyn Read, length: usize) -> io::Result<Vec<u8>> {
    const FIRST: usize = 1 << 20;
    let mut values = Vec::new();
    while values.len() < length {
        let (done, step) = (values.len(), values.len().max(FIRST).min(length - values.len()));
        values.try_reserve_exact(step).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        values.resize(done + step, 0);
        reader.read_exact(&mut values[done..])?;
    }
    Ok(values)
}

/// The error for a file that can't be opened, with its compressed or plain sibling where that is there.
fn missing(path: &Path, error: io::Error) -> Error {
    if error.kind() != io::ErrorKind::NotFound {
        return Error::io(path, "opening")(error);
    }
    let text = path.to_string_lossy();
    let other = text.strip_suffix(".gz").map_or_else(|| format!("{text}.gz"), str::to_owned);
    let advice = if Path::new(&other).is_file() { format!(": did you mean {other}?") } else { String::new() };
    Error::file(path, format!("there is no such file{advice}"))
}

/// The error for a file that ends early or whose compressed data is damaged.
fn broken(path: &Path, zipped: bool, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::file(path, "is truncated: fetch it again"),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData if zipped => {
            Error::file(path, format!("its gzip data is damaged ({error}): fetch it again"))
        }
        _ => Error::io(path, "reading")(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;
    use std::io::Write;

    fn idx(dimensions: &[u32], values: &[u8]) -> Vec<u8> {
        let mut file = vec![0, 0, 8, dimensions.len() as u8];
        file.extend(dimensions.iter().flat_map(|d| d.to_be_bytes()));
        file.extend(values);
        file
    }

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    struct Folder(tempfile::TempDir);
    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }
        fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
            let path = self.0.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        }
        fn line(&self, images: &[u8], labels: Option<&[u8]>, classes: Option<&[String]>) -> String {
            let images = self.file("i", images);
            let labels = labels.map(|bytes| self.file("l", bytes));
            IdxImages::open(&images, labels.as_deref(), classes).unwrap_err().to_string()
        }
    }

    #[test]
    fn plain_and_gzipped_give_the_same() {
        let folder = Folder::new();
        let images = idx(&[3, 2, 2], &(0..12).collect::<Vec<u8>>());
        let labels = folder.file("l", &idx(&[3], &[2, 0, 1]));
        for (name, bytes) in [("train-images-idx3-ubyte", images.clone()), ("train-images-idx3-ubyte.gz", gz(&images))]
        {
            let source = IdxImages::open(&folder.file(name, &bytes), Some(&labels), None).unwrap();
            assert_eq!((source.len(), source.is_empty(), source.size_of(2).unwrap()), (3, false, [1, 2, 2]));
            assert_eq!(source.read(1).unwrap().data(), [4, 5, 6, 7]);
            assert_eq!((0..4).map(|i| source.label(i)).collect::<Vec<_>>(), [Some(2), Some(0), Some(1), None]);
            assert_eq!(source.classes(), ["0", "1", "2"]);
            assert_eq!(source.name(1), "train-images#1");
            assert!(source.read(3).is_err() && source.size_of(usize::MAX).is_err());
        }
    }

    #[test]
    fn rank_4_holds_channels_last_and_labels_are_optional() {
        let folder = Folder::new();
        let path = folder.file("i.idx", &idx(&[2, 1, 2, 5], &(0..20).collect::<Vec<u8>>()));
        let source = IdxImages::open(&path, None, None).unwrap();
        assert_eq!(source.read(1).unwrap(), Raster::new(5, 1, 2, (10..20).collect()).unwrap());
        assert_eq!((source.label(0), source.classes().len()), (None, 0));
    }

    #[test]
    fn lying_headers_are_refused_before_memory_is_taken() {
        let folder = Folder::new();
        // 2^96 and 2^62 values: taking memory for either would end the test.
        for dimensions in [[u32::MAX; 3], [1 << 31, 1 << 31, 1]] {
            let file = idx(&dimensions, &[0; 100]);
            for bytes in [file.clone(), gz(&file)] {
                assert!(folder.line(&bytes, None, None).contains("doesn't fit the file's"));
            }
        }
        assert!(folder.line(&idx(&[3, 2, 2], &[0; 11]), None, None).contains("truncated or damaged"));
        assert!(folder.line(&idx(&[3, 2, 2], &[0; 13]), None, None).contains("truncated or damaged"));
        assert!(folder.line(&gz(&idx(&[3, 2, 2], &[0; 11])), None, None).contains("is truncated"));
        assert!(folder.line(&gz(&idx(&[3, 2, 2], &[0; 13])), None, None).contains("holds more than"));
    }

    #[test]
    fn each_defect_has_its_line() {
        let folder = Folder::new();
        let images = idx(&[3, 2, 2], &[0; 12]);
        let zipped = gz(&idx(&[3, 2, 2], &(0..12).collect::<Vec<u8>>()));
        let mut flipped = zipped.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let names = ["shirt".to_owned(), "coat".to_owned()];
        for (images, labels, classes, wanted) in [
            (&b"\x89PNG\r\n"[..], None, None, "starts with 89 50 4e 47"),
            (b"", None, None, "is truncated"),
            (&[0, 0, 8, 3, 0], None, None, "is truncated"),
            (&[0, 0, 13, 3, 0, 0, 0, 1], None, None, "type 0x0d"),
            (&idx(&[3], &[1, 2, 3]), None, None, "has 1 dimensions: give an IDX file of images"),
            (&idx(&[0, 28, 28], &[]), None, None, "holds no images"),
            (&zipped[..zipped.len() - 9], None, None, "is truncated"),
            (&flipped, None, None, "is damaged"),
            (&images, Some(&idx(&[2], &[0, 1])[..]), None, "holds 2 labels, but"),
            (&images, Some(&images), None, "give an IDX file of labels"),
            (&images, Some(&idx(&[3], &[0, 2, 1])), Some(&names[..]), "label 1 (from 0) is 2, but 2 classes are named"),
        ] {
            let line = folder.line(images, labels, classes);
            assert!(line.contains(wanted) && !line.contains('\n'), "{line}");
        }
        let there = folder.file("a.gz", &zipped);
        let line = IdxImages::open(&there.with_extension(""), None, None).unwrap_err().to_string();
        assert!(line.ends_with("a.gz?"), "{line}");
        assert!(IdxImages::open(folder.0.path(), None, None).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(start in 0usize..3, rest in proptest::collection::vec(any::<u8>(), 0..200)) {
            let folder = Folder::new();
            let mut bytes = [&[][..], &[0, 0, 8, 3, 0, 0, 0], &[0x1f, 0x8b, 8, 0]][start].to_vec();
            bytes.extend(rest);
            let path = folder.file("i", &bytes);
            if let Ok(source) = IdxImages::open(&path, Some(&path), None) {
                prop_assert!(source.read(0).is_ok());
            }
        }
    }
}
