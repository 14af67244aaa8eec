use std::path::{Path, PathBuf};

use serde_json::json;
use tch::{Kind, Tensor};

use super::*;
use crate::stream::Stream;

/// What PyTorch wrote (`ci/official-parity --fixtures`).
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pth").join(name)
}

fn refused(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    std::fs::write(&path, bytes).unwrap();
    let error = Pth::open(&path).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string().replace(&path.display().to_string(), "x")
}

#[test]
fn what_pytorch_wrote_is_read() {
    let expected = crate::store::read(&fixture("expected.safetensors")).unwrap().tensors;
    for name in ["zip.pth", "legacy.pth", "zip-4.pth"] {
        let file = Pth::open(&fixture(name)).unwrap();
        assert_eq!(file.shapes().count(), expected.len());
        for (tensor, wanted) in &expected {
            let found = file.tensor(&format!("model.{tensor}")).unwrap();
            assert_eq!((found.kind(), found.size()), (wanted.kind(), wanted.size()), "{name}: {tensor}");
            assert!(found == *wanted && found.is_contiguous(), "{name}: {tensor} is {found}");
        }
        let fact = |key: &str| file.facts().get(key).cloned();
        assert_eq!(fact("args.model"), Some(json!("small")));
        assert_eq!(fact("args.lr"), Some(json!(0.5)));
        assert_eq!(fact("args.flag"), Some(json!(true)));
        assert_eq!(fact("args.nested.a.1"), Some(json!("b")));
        assert_eq!((fact("epoch"), fact("args.path"), fact("best")), (Some(json!(3)), None, None));
        assert!(file.tensor("epoch").is_err());
    }
}

#[test]
fn lists_and_optimisers_have_names() {
    let names = |name: &str| -> Vec<String> {
        Pth::open(&fixture(name)).unwrap().shapes().map(|(name, _)| name.to_owned()).collect()
    };
    assert_eq!(names("list.pth"), ["0", "1"]);
    let names = names("training.pth");
    assert!(names.contains(&"model.1.weight".to_owned()) && names.contains(&"optimizer.state.0.exp_avg".to_owned()));
}

#[test]
fn a_class_of_a_program_is_refused_by_name() {
    let line = Pth::open(&fixture("module.pth")).unwrap_err().to_string();
    assert!(line.contains("names torch.nn.modules.container.Sequential, which is not read here"), "{line}");
}

/// A number as a pickle of its own.
fn pickled(body: &[u8]) -> Vec<u8> {
    [&[0x80, 2], body, b"."].concat()
}

/// The older form around a pickle: magic number, protocol, machine, value, keys.
fn stream(body: &[u8], keys: &[u8], rest: &[u8]) -> Vec<u8> {
    let magic = pickled(&[&[0x8a, 10][..], &MAGIC].concat());
    let protocol = pickled(&[b'M', 0xe9, 3]);
    let machine = pickled(b"}X\x0d\0\0\0little_endian\x88s");
    [magic, protocol, machine, pickled(body), pickled(keys), rest.to_vec()].concat()
}

/// A storage of `count` numbers named `a`, and a tensor over it with offset, shape and stride of one dimension.
fn tensor(count: u8, offset: u8, shape: u8, stride: u8) -> Vec<u8> {
    let storage =
        [b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0aX\x03\0\0\0cpuK", &[count][..], b"NtQ"].concat();
    [
        b"}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n(",
        &storage[..],
        &[b'K', offset, b'K', shape, 0x85, b'K', stride, 0x85],
        b"\x89NtRs",
    ]
    .concat()
}

const KEYS: &[u8] = b"]X\x01\0\0\0aa";

fn numbers(values: &[f32]) -> Vec<u8> {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes());
    (values.len() as u64).to_le_bytes().into_iter().chain(bytes).collect()
}

#[test]
fn the_older_form_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    std::fs::write(&path, stream(&tensor(4, 1, 2, 2), KEYS, &numbers(&[1., 2., 3., 4.]))).unwrap();
    assert_eq!(Pth::open(&path).unwrap().tensor("w").unwrap(), Tensor::from_slice(&[2f32, 4.]));
}

/// Python would run a command where it loaded this.
#[test]
fn nothing_is_executed() {
    let mark = tempfile::tempdir().unwrap().path().join("made");
    for module in ["os", "posix", "builtins"] {
        let name = if module == "builtins" { "eval" } else { "system" };
        let command = format!("touch {}", mark.display());
        let body = [
            format!("c{module}\n{name}\nX").as_bytes(),
            &(command.len() as u32).to_le_bytes(),
            command.as_bytes(),
            b"\x85R",
        ]
        .concat();
        let line = refused(&stream(&body, b"]", b""));
        assert!(line.starts_with(&format!("x: its pickle names {module}.{name}, which is not read here;")), "{line}");
    }
    let by_stack = refused(&stream(b"X\x02\0\0\0osX\x06\0\0\0system\x93", b"]", b""));
    assert!(by_stack.contains("names os.system"), "{by_stack}");
    assert!(!mark.exists());
}

#[test]
fn what_does_not_fit_together_is_named() {
    let full = numbers(&[1., 2., 3., 4.]);
    let whole = stream(&tensor(4, 0, 4, 1), KEYS, &full);
    for (bytes, wanted) in [
        (b"".to_vec(), "x: is empty"),
        (b"hello".to_vec(), "x: is no checkpoint of PyTorch: neither a zip archive nor a pickle"),
        (b"PK\x03\x04 and no more".to_vec(), "x: is a damaged or cut off zip archive: its directory"),
        (pickled(b"K\x07"), "x: is a Python pickle, but no checkpoint of PyTorch: it lacks its magic number"),
        (whole[..20].to_vec(), "x: its pickle is cut off"),
        (whole[..whole.len() - 3].to_vec(), "x: is cut off or damaged at storage \"a\""),
        (stream(&tensor(4, 0, 5, 1), KEYS, &full), "x: tensor \"w\" sees more numbers than its storage has"),
        (stream(&tensor(4, 3, 2, 1), KEYS, &full), "x: tensor \"w\" sees more numbers than its storage has"),
        (stream(&tensor(4, 0, 2, 4), KEYS, &full), "x: tensor \"w\" sees more numbers than its storage has"),
        (stream(&tensor(4, 0, 255, 0), KEYS, &full), "x: tensor \"w\" repeats its numbers beyond the file's size"),
        (stream(&tensor(3, 0, 3, 1), KEYS, &full), "x: is cut off or damaged at storage \"a\""),
        (stream(&tensor(4, 0, 4, 1), b"]", b""), "x: is cut off or damaged: the numbers of \"w\" are not all there"),
        (stream(&tensor(4, 0, 4, 1), b"]X\x01\0\0\0ba", &full), "x: is cut off or damaged at storage \"b\""),
        (stream(b"}", b"]", b""), "x: holds no tensor"),
        (stream(b"(", b"]", b""), "x: its pickle takes more from its stack than there is"),
        (stream(b"h\x05", b"]", b""), "x: its pickle recalls a value that it never had"),
        (stream(b"2", b"]", b""), "x: its pickle has the instruction 0x32"),
        (stream(b"}r\xff\xff\xff\xff", b"]", b""), "x: its pickle numbers values wildly"),
    ] {
        let line = refused(&bytes);
        assert!(line.starts_with(wanted), "wanted {wanted}\nfound  {line}");
    }
}

/// Small pickles that would grow without bound: lists in themselves, each held twice by the next, and very deep ones.
#[test]
fn bombs_end() {
    let circle = b"]q\x00h\x00a";
    assert!(refused(&stream(circle, b"]", b"")).contains("nested or named beyond all checkpoints"));
    // Thirty lists, each with the one before it twice: 2^30 ways to the first.
    let mut doubled = b"]q\x00".to_vec();
    for at in 1..30u8 {
        doubled.extend([b']', b'q', at, b'(', b'h', at - 1, b'h', at - 1, b'e']);
    }
    assert!(refused(&stream(&doubled, b"]", b"")).contains("nested or named beyond all checkpoints"));
    let mut deep = vec![b']'; 300_000];
    deep.extend(vec![b'a'; 299_999]);
    assert!(refused(&stream(&deep, b"]", b"")).contains("nested or named beyond all checkpoints"));
    let many = [b"(".to_vec(), vec![b'N'; 1_100_000], b"t".to_vec()].concat();
    assert!(refused(&stream(&many, b"]", b"")).contains("more than 1000000 values"));
}

/// Whatever happens to a file, it is read or refused in words.
#[test]
fn mutated_files_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let mut stream = Stream::new(11);
    let (mut read, mut not) = (0, 0);
    for name in ["zip.pth", "legacy.pth", "zip-4.pth", "training.pth", "list.pth"] {
        let whole = std::fs::read(fixture(name)).unwrap();
        for _ in 0..600 {
            let mut bytes = whole.clone();
            for _ in 0..=stream.below(4) {
                let at = stream.below(bytes.len() as u64) as usize;
                match stream.below(6) {
                    0 => bytes.truncate(at.max(1)),
                    1 => bytes.insert(at, stream.below(256) as u8),
                    2 => drop(bytes.remove(at)),
                    3 => bytes[at] = 0xff,
                    4 => bytes[at] ^= 1 << stream.below(8),
                    _ => bytes[at] = stream.below(256) as u8,
                }
                if bytes.is_empty() {
                    break;
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            let outcome = Pth::open(&path).and_then(|file| {
                let names: Vec<String> = file.shapes().map(|(name, _)| name.to_owned()).collect();
                names.iter().map(|name| file.tensor(name)).collect::<Result<Vec<_>>>()
            });
            match outcome {
                Ok(_) => read += 1,
                Err(error) => {
                    assert!(!error.to_string().is_empty() && error.exit_code() == 2, "{error}");
                    not += 1;
                }
            }
        }
    }
    assert!(read > 100 && not > 100, "{read} were read, {not} were not");
}

/// Any view of any storage is what libtorch sees.
#[test]
fn views_are_libtorchs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let values: Vec<f32> = (0..40u8).map(f32::from).collect();
    let flat = Tensor::from_slice(&values);
    let mut stream_of = Stream::new(5);
    let mut seen = 0;
    for _ in 0..400 {
        let [offset, shape, stride] = [16, 9, 6].map(|most| stream_of.below(most) as u8);
        std::fs::write(&path, stream(&tensor(40, offset, shape, stride), KEYS, &numbers(&values))).unwrap();
        let inside = shape == 0 || i32::from(offset) + (i32::from(shape) - 1) * i32::from(stride) < 40;
        let Ok(file) = Pth::open(&path) else {
            assert!(!inside, "{offset} {shape} {stride}");
            continue;
        };
        assert!(inside, "{offset} {shape} {stride}");
        let wanted = flat.as_strided([i64::from(shape)], [i64::from(stride)], i64::from(offset));
        let found = file.tensor("w").unwrap();
        assert!(found == wanted && found.kind() == Kind::Float, "{offset} {shape} {stride}");
        seen += 1;
    }
    assert!(seen > 200);
}
