//! Files that must be refused: the name of a test, its bytes, the one line that must be printed.

use std::path::Path;

use super::tests::{file, parse};
use super::{read, read_header};
use crate::Error;

macro_rules! refused {
    ($($name:ident: $bytes:expr => $line:expr;)*) => {$(
        #[test]
        fn $name() {
            let bytes: Vec<u8> = $bytes.into();
            let error = parse(&bytes).unwrap_err();
            assert_eq!(error.to_string(), concat!("x: ", $line));
            assert!(matches!(error, Error::File { .. }));
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x");
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(read(&path).unwrap_err().to_string(), format!("{}: {}", path.display(), $line));
        }
    )*};
}

refused! {
    empty: [] => "is empty; copy or download it again";
    seven_bytes: [0; 7] => "has only 7 bytes, a safetensors file begins with 8; copy or download it again";
    only_a_length: 2u64.to_le_bytes() =>
        "is cut off or no safetensors file: its header takes 2 bytes, 0 are there; copy or download it again";
    cut_header: &file(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 0)[..40] =>
        "is cut off or no safetensors file: its header takes 54 bytes, 32 are there; copy or download it again";
    header_of_a_terabyte: [&(1u64 << 40).to_le_bytes()[..], b"{}"].concat() =>
        "claims a header of 1099511627776 bytes, the limit is 100000000: it is damaged or no safetensors file";
    header_of_all_ones: [255; 64] =>
        "claims a header of 18446744073709551615 bytes, the limit is 100000000: it is damaged or no safetensors file";
    plain_text: *b"just some text, nothing else" =>
        "claims a header of 7885648055778899306 bytes, the limit is 100000000: it is damaged or no safetensors file";
    zeros: [0; 16] =>
        "is damaged or no safetensors file: its header does not begin with '{'; copy or download it again";
    git_lfs_pointer: *b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n" =>
        "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`";
    web_page: *b"<!DOCTYPE html><html><title>Sign in</title></html>" =>
        "is a web page, not the file itself; download it again, signed in where that is asked for";
    web_page_after_blanks: *b"\n  \n<html><head></head></html>" =>
        "is a web page, not the file itself; download it again, signed in where that is asked for";
    pytorch_zip: *b"PK\x03\x04\x00\x00\x08\x08\x00\x00 archive/data.pkl" =>
        "is a zip archive, as PyTorch's .pth and .bin files are, which is not read here; turn it into a folder with \
         convert, or save it as safetensors";
    old_pickle: *b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." =>
        "is a Python pickle, as old .pth and .bin files are, which is not read here; turn it into a folder with \
         convert, or save it as safetensors";
    json_index: *br#"{"metadata":{},"weight_map":{}}"# =>
        "is JSON text, not safetensors; where it is an index, give the files that it lists";
    not_utf8: [&4u64.to_le_bytes()[..], b"{\xff\xfe}"].concat() =>
        "is damaged: its header is not UTF-8; copy or download it again";
    no_json: file("{nothing}", 0) =>
        "has a damaged header (key must be a string at line 1 column 2); copy or download it again";
    two_values: file("{} {}", 0) =>
        "has a damaged header (trailing characters at line 1 column 4); copy or download it again";
    deep_json: file(&format!(r#"{{"a":{{"dtype":"F32","x":{}"#, "[".repeat(200_000)), 0) =>
        "has a damaged header (\"a\": EOF while parsing a list at line 1 column 200024); copy or download it again";
    no_dtype: file(r#"{"a":{"shape":[1],"data_offsets":[0,4]}}"#, 4) =>
        "has a damaged header (\"a\": missing field `dtype` at line 1 column 39); copy or download it again";
    negative_side: file(r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, 4) =>
        "has a damaged header (\"a\": invalid value: integer `-1`, expected u64 at line 1 column 31); copy or download \
         it again";
    metadata_of_numbers: file(r#"{"__metadata__":{"step":1}}"#, 0) =>
        "has a damaged header (\"__metadata__\": invalid type: integer `1`, expected a string at line 1 column 25); \
         copy or download it again";
    unknown_type: file(r#"{"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}"#, 4) =>
        "tensor \"a\" has numbers of type \"F8_E4M3\", which is not read here; store it as F32";
    unsigned_type: file(r#"{"a":{"dtype":"U16","shape":[2],"data_offsets":[0,4]}}"#, 4) =>
        "tensor \"a\" has numbers of type \"U16\", which is not read here; store it as F32";
    other_size: file(r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,20]}}"#, 20) =>
        "tensor \"a\" takes 24 bytes as F32 [2, 3], but stands at 0 to 20; copy or download it again";
    backwards: file(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, 4) =>
        "tensor \"a\" takes 4 bytes as F32 [1], but stands at 4 to 0; copy or download it again";
    shape_overflow: file(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#, 0) =>
        "tensor \"a\" has a shape beyond all memory; the file is damaged: copy or download it again";
    stride_overflow: file(r#"{"a":{"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}}"#, 0) =>
        "tensor \"a\" has a shape beyond all memory; the file is damaged: copy or download it again";
    beyond_the_file: file(r#"{"a":{"dtype":"U8","shape":[1099511627776],"data_offsets":[0,1099511627776]}}"#, 4) =>
        "is cut off: tensor \"a\" ends at byte 1099511627776 of the data, 4 are there; copy or download it again";
    overlap: file(
        r#"{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}"#,
        4,
    ) => "tensor \"b\" overlaps the one before it (byte 2 of the data); copy or download it again";
    shared_place: file(
        r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"I8","shape":[4],"data_offsets":[0,4]}}"#,
        4,
    ) => "tensor \"b\" overlaps the one before it (byte 0 of the data); copy or download it again";
    hole: file(
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}"#,
        4,
    ) => "has 2 bytes of no tensor before \"b\"; copy or download it again";
    hole_at_the_start: file(r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}"#, 4) =>
        "has 3 bytes of no tensor before \"a\"; copy or download it again";
    more_at_the_end: file(r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, 4) =>
        "has 3 bytes after its last tensor; copy or download it again";
    same_name: file(
        r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}"#,
        4,
    ) => "has two tensors \"a\"; copy or download it again";
    third_truth: file(r#"{"a":{"dtype":"BOOL","shape":[4],"data_offsets":[0,4]}}"#, 4) =>
        "tensor \"a\" is BOOL and holds the byte 7, not 0 or 1; copy or download it again";
    long_name: file(&format!(r#"{{"{}\n":{{"dtype":"F4","shape":[],"data_offsets":[0,0]}}}}"#, "n".repeat(100)), 0) =>
        "tensor \"nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn\".. has numbers of \
         type \"F4\", which is not read here; store it as F32";
}

#[test]
fn what_is_no_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let line = |path: &Path| read(path).unwrap_err().to_string().replace(&path.display().to_string(), "x");
    assert_eq!(line(&folder.path().join("gone")), "x: does not exist; check the path");
    assert_eq!(line(folder.path()), "x: is a folder; give the safetensors file inside it");
    assert_eq!(line(Path::new("/dev/null")), "x: is no plain file; give a safetensors file");
    assert!(read_header(&folder.path().join("gone")).is_err());
}
