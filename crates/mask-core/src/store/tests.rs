use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;

use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::*;

const ALL: [Kind; 10] = [
    Kind::Double,
    Kind::Float,
    Kind::Half,
    Kind::BFloat16,
    Kind::Int64,
    Kind::Int,
    Kind::Int16,
    Kind::Int8,
    Kind::Uint8,
    Kind::Bool,
];

fn sample() -> Vec<(String, Tensor)> {
    let of = |kind: Kind| Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]).to_kind(kind);
    let mut all: Vec<_> = ALL.iter().map(|kind| (format!("{kind:?}"), of(*kind))).collect();
    all.push(("empty".to_owned(), Tensor::zeros([0, 4], (Kind::Float, Device::Cpu))));
    all.push(("scalar".to_owned(), Tensor::from(1.5f32)));
    all
}

fn bytes_of(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.copy_data_u8(&mut bytes, tensor.numel());
    bytes
}

/// A file in memory: the header's length, the header, so many bytes of data.
pub fn file(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![7; data]].concat()
}

pub fn parse(bytes: &[u8]) -> Result<Stored> {
    load(Path::new("x"), &mut &bytes[..], bytes.len() as u64)
}

#[test]
fn a_file_that_shrinks_meanwhile_is_refused() {
    let bytes = file(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, 4);
    let error = load(Path::new("x"), &mut &bytes[..bytes.len() - 1], bytes.len() as u64).unwrap_err();
    assert_eq!(error.to_string(), "x: became shorter while it was read; read it again when it is complete");
}

#[test]
fn every_type_comes_back_in_the_bytes_of_the_library() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let metadata = Named::from([("a".to_owned(), "b \"c\"\n".to_owned())]);
    write(&path, &sample(), &metadata).unwrap();
    let first = std::fs::read(&path).unwrap();
    let (stored, header) = (read(&path).unwrap(), read_header(&path).unwrap());
    assert_eq!((&stored.metadata, &header.metadata), (&metadata, &metadata));
    assert_eq!((stored.tensors.len(), header.tensors.len()), (sample().len(), sample().len()));
    let mut data = Vec::new();
    for (name, tensor) in sample() {
        let back = &stored.tensors[&name];
        assert_eq!((back.kind(), back.size(), bytes_of(back)), (tensor.kind(), tensor.size(), bytes_of(&tensor)));
        assert_eq!(header.tensors[&name], Entry { kind: tensor.kind(), shape: tensor.size() });
        data.push((name, tensor.kind(), tensor.size(), bytes_of(&tensor)));
    }
    let types = [
        Dtype::F64,
        Dtype::F32,
        Dtype::F16,
        Dtype::BF16,
        Dtype::I64,
        Dtype::I32,
        Dtype::I16,
        Dtype::I8,
        Dtype::U8,
        Dtype::BOOL,
    ];
    let views = data.iter().map(|(name, kind, shape, bytes)| {
        let dtype = types[ALL.iter().position(|known| known == kind).unwrap()];
        let shape = shape.iter().map(|side| *side as usize).collect();
        (name.as_str(), TensorView::new(dtype, shape, bytes).unwrap())
    });
    let theirs = safetensors::serialize(views, Some(HashMap::from_iter(metadata.clone()))).unwrap();
    assert!(theirs == first);
    let mut reversed = sample();
    reversed.reverse();
    write(&path, &reversed, &metadata).unwrap();
    assert!(std::fs::read(&path).unwrap() == first);
}

#[test]
fn views_gradients_and_long_tensors_are_written_as_they_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let base = Tensor::arange(12, (Kind::Float, Device::Cpu)).view([3, 4]);
    let long = Tensor::arange(5_000_000, (Kind::Int, Device::Cpu));
    let tensors = [
        ("turned", base.transpose(0, 1)),
        ("part", base.narrow(1, 1, 2)),
        ("spread", Tensor::from(2i64).expand([3, 2], false)),
        ("leaf", base.copy().set_requires_grad(true)),
        ("long", long),
    ]
    .map(|(name, tensor)| (name.to_owned(), tensor));
    write(&path, &tensors, &Named::new()).unwrap();
    let stored = read(&path).unwrap();
    for (name, tensor) in &tensors {
        assert!(stored.tensors[name].equal(tensor), "{name}");
    }
}

#[test]
fn what_the_format_lacks_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let try_to = |tensors: &[(&str, Kind)]| {
        let of = |(name, kind): &(&str, Kind)| ((*name).to_owned(), Tensor::zeros([2], (*kind, Device::Cpu)));
        write(&path, &tensors.iter().map(of).collect::<Vec<_>>(), &Named::new()).unwrap_err().to_string()
    };
    let complex = "tensor \"a\": is ComplexFloat; files hold I64, F64, F32, I32, BF16, F16, I16, I8, U8, BOOL";
    assert_eq!(try_to(&[("a", Kind::ComplexFloat)]), complex);
    let twice = "tensor \"a\": comes twice, or takes the name of the metadata";
    assert_eq!(try_to(&[("a", Kind::Float), ("b", Kind::Int), ("a", Kind::Int)]), twice);
    assert_eq!(try_to(&[("__metadata__", Kind::Float)]), twice.replace("\"a\"", "\"__metadata__\""));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// The only thing in the folder is the old file.
fn untouched(folder: &Path) {
    assert_eq!(std::fs::read(folder.join("x")).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);
}

#[test]
fn a_full_disk_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    write_bytes(&path, b"old").unwrap();
    // The system's own refusal, in the middle of the tensors.
    let mut full = File::options().write(true).open("/dev/full").unwrap();
    let error = atomic::replace(&path, |file| {
        file.write_all(b"half").unwrap();
        stream(&path, &mut full, &Tensor::zeros([10], (Kind::Float, Device::Cpu)))
    });
    let line = format!("{}: writing failed: No space left on device (os error 28)", path.display());
    assert_eq!(error.unwrap_err().to_string(), line);
    untouched(folder.path());
}

/// The same through the whole of `write`, in a process of its own whose files may not exceed 64 KiB or so: the system
/// refuses in the middle of a write, or, as the buffer is smaller, at its end.
#[test]
fn a_limit_on_files_leaves_the_old_file() {
    let this = format!("{}::{}", module_path!(), "a_limit_on_files_leaves_the_old_file");
    let this = this.split_once("::").unwrap().1;
    if let Some(folder) = std::env::var_os("MASK_TEST_FULL").map(PathBuf::from) {
        let path = folder.join("x");
        for numel in [1 << 15, 1 << 20] {
            let tensors = [("a".to_owned(), Tensor::zeros([numel], (Kind::Float, Device::Cpu)))];
            let error = write(&path, &tensors, &Named::new()).unwrap_err();
            let Error::Io { doing: "writing", source, .. } = error else { panic!("{error:?}") };
            assert_eq!(source.raw_os_error(), Some(libc::EFBIG));
            untouched(&folder);
        }
        let error = write_bytes(&path, &vec![0; 1 << 17]).unwrap_err();
        assert_eq!(error.to_string(), format!("{}: writing failed: File too large (os error 27)", path.display()));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    write_bytes(&folder.path().join("x"), b"old").unwrap();
    let child = Command::new("sh")
        // An ignored signal stays ignored in the program that follows.
        .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" --exact \"$1\""])
        .arg(std::env::current_exe().unwrap())
        .arg(this)
        .env("MASK_TEST_FULL", folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
    untouched(folder.path());
}

#[test]
fn refusals_of_the_system_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let said = |path: &Path| {
        let error = write_bytes(path, b"new").unwrap_err();
        assert!(matches!(error, Error::Io { .. } | Error::File { .. }));
        error.to_string().replace(&format!("{}: ", path.display()), "")
    };
    assert_eq!(said(&folder.path().join("gone/x")), "writing failed: No such file or directory (os error 2)");
    assert_eq!(said(Path::new("/")), "is no name of a file; give one");
    let place = folder.path().join("folder");
    std::fs::create_dir(&place).unwrap();
    assert!(said(&place).starts_with("writing failed: "));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_panic_while_filling_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    write_bytes(&path, b"old").unwrap();
    let fill = || atomic::replace(&path, |_| panic!("on purpose"));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(fill)).is_err());
    untouched(folder.path());
    write_bytes(&path, b"new").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
}

/// Threads that write one file take turns; each reader sees one whole content.
#[test]
fn threads_may_write_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    write_bytes(&path, &[0; 5000]).unwrap();
    std::thread::scope(|scope| {
        for byte in 1..5 {
            let path = &path;
            scope.spawn(move || (0..20).for_each(|_| write_bytes(path, &[byte; 5000]).unwrap()));
        }
        for _ in 0..200 {
            let seen = std::fs::read(&path).unwrap();
            assert!(seen.len() == 5000 && seen.iter().all(|byte| *byte == seen[0]));
        }
    });
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn leftovers_of_the_dead_are_swept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let own = format!(".old.tmp-{}", std::process::id());
    let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
    let alive = format!(".a.tmp-{}", sleeper.id());
    // Ids above 2^22 are never given.
    for name in [own.as_str(), &alive, ".b.tmp-4194999", "c.tmp-4194999", ".d.tmp-x", ".e.tmp-", "f"] {
        std::fs::write(folder.path().join(name), b"").unwrap();
    }
    atomic::replace(&path, |_| sweep(folder.path())).unwrap();
    let left = || {
        let mut names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let kept = [".d.tmp-x", ".e.tmp-", "c.tmp-4194999", "f", "x"].map(str::to_owned);
    assert_eq!(left(), [&[alive][..], &kept].concat());
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    sweep(folder.path()).unwrap();
    assert_eq!(left(), kept);
    assert!(sweep(&folder.path().join("gone")).is_err());
}

/// Whatever is taken here, the `safetensors` library takes and reads alike.
fn agrees(bytes: &[u8]) {
    match parse(bytes) {
        Err(error) => assert!(matches!(error, Error::File { .. }), "{error:?}"),
        Ok(stored) => {
            let theirs = SafeTensors::deserialize(bytes).unwrap();
            assert_eq!(theirs.len(), stored.tensors.len());
            for (name, tensor) in &stored.tensors {
                let view = theirs.tensor(name).unwrap();
                let shape: Vec<i64> = view.shape().iter().map(|side| *side as i64).collect();
                assert_eq!((shape, view.data()), (tensor.size(), &bytes_of(tensor)[..]));
            }
        }
    }
}

fn valid() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    write(&path, &sample(), &Named::from([("k".to_owned(), "v".to_owned())])).unwrap();
    std::fs::read(path).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        agrees(&bytes);
        agrees(&file(&String::from_utf8_lossy(&bytes), 8));
    }

    #[test]
    fn a_damaged_file_never_panics(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 0..4),
        cut in any::<prop::sample::Index>(),
        keep in any::<bool>(),
    ) {
        let mut bytes = valid();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        if !keep {
            bytes.truncate(cut.index(bytes.len()));
        }
        agrees(&bytes);
    }

    /// Headers that parse and lie about places, sides and types.
    #[test]
    fn lies_about_places_never_panic(
        tensors in prop::collection::vec(
            (0usize..12, prop::collection::vec(prop_oneof![0u64..4, any::<u64>()], 0..4), 0u64..12, 0u64..24),
            0..4,
        ),
        size in 0usize..24,
    ) {
        let types = ["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL", "F8_E4M3", "?"];
        let entry = |(name, (dtype, shape, begin, length)): (usize, &(usize, Vec<u64>, u64, u64))| {
            let end = begin + length;
            format!(r#""{name}":{{"dtype":"{}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#, types[*dtype])
        };
        let entries: Vec<_> = tensors.iter().enumerate().map(entry).collect();
        agrees(&file(&format!("{{{}}}", entries.join(",")), size));
    }

    #[test]
    fn what_is_written_is_read(
        tensors in prop::collection::btree_map(
            ".{0,8}",
            (0usize..10, prop::collection::vec(0i64..4, 0..4), any::<u64>()),
            0..6,
        ),
        metadata in prop::collection::btree_map(".{0,8}", ".{0,20}", 0..4),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let tensors: Vec<(String, Tensor)> = tensors.into_iter().map(|(name, (kind, shape, seed))| {
            let (kind, numel) = (ALL[kind], shape.iter().product::<i64>() as usize);
            let width = kind.elt_size_in_bytes();
            // Any bits at all: subnormal numbers, infinities, NaNs with a payload.
            let bits = (0..numel * width).map(|i| (seed.wrapping_mul(2 * i as u64 + 1) >> 29) as u8);
            let bytes: Vec<u8> = bits.map(|byte| if kind == Kind::Bool { byte & 1 } else { byte }).collect();
            (name, Tensor::from_data_size(&bytes, &shape, kind))
        }).collect();
        write(&path, &tensors, &metadata).unwrap();
        let stored = read(&path).unwrap();
        prop_assert_eq!(&stored.metadata, &metadata);
        prop_assert_eq!(stored.tensors.len(), tensors.len());
        for (name, tensor) in &tensors {
            let back = &stored.tensors[name];
            prop_assert_eq!((back.kind(), back.size()), (tensor.kind(), tensor.size()));
            prop_assert_eq!(bytes_of(back), bytes_of(tensor));
        }
        agrees(&std::fs::read(&path).unwrap());
    }
}
