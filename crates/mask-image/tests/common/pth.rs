//! A writer of PyTorch's checkpoints, as `torch.save({part: state_dict})` makes them.

use std::path::Path;

use mask_core::Named;
use tch::{Kind, Tensor};

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn int(out: &mut Vec<u8>, value: i64) {
    out.push(b'J');
    out.extend(i32::try_from(value).expect("a small number").to_le_bytes());
}

fn ints(out: &mut Vec<u8>, values: &[i64]) {
    out.push(b'(');
    values.iter().for_each(|value| int(out, *value));
    out.push(b't');
}

const DICT: &[u8] = b"ccollections\nOrderedDict\n)R";

/// Records of a zip file, stored.
fn zip(records: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in records {
        let offset = (out.len() as u32).to_le_bytes();
        let size = (data.len() as u32).to_le_bytes();
        let length = (name.len() as u16).to_le_bytes();
        let head = [&[0u8; 4][..], &[0; 4], &[0; 4], &size, &size, &length, &[0; 2]].concat();
        out.extend([&b"PK\x03\x04\0\0"[..], &head, name.as_bytes(), data].concat());
        directory.extend([&b"PK\x01\x02\0\0\0\0"[..], &head, &[0; 10], &offset, name.as_bytes()].concat());
    }
    let start = (out.len() as u32).to_le_bytes();
    let count = (records.len() as u16).to_le_bytes();
    let length = (directory.len() as u32).to_le_bytes();
    out.extend(directory);
    out.extend([&b"PK\x05\x06\0\0\0\0"[..], &count, &count, &length, &start, &[0; 2]].concat());
    out
}

/// Writes parts of float32 tensors.
pub fn write(path: &Path, parts: &[(&str, Named<Tensor>)]) {
    let (mut pickle, mut records) = (b"\x80\x02}".to_vec(), Vec::new());
    for (part, tensors) in parts {
        text(&mut pickle, part);
        pickle.extend(DICT);
        pickle.push(b'(');
        for (name, tensor) in tensors {
            let (key, count) = (records.len().to_string(), tensor.numel());
            text(&mut pickle, name);
            pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
            text(&mut pickle, "storage");
            pickle.extend(b"ctorch\nFloatStorage\n");
            text(&mut pickle, &key);
            text(&mut pickle, "cpu");
            int(&mut pickle, count as i64);
            pickle.extend(b"tQ");
            int(&mut pickle, 0);
            ints(&mut pickle, &tensor.size());
            ints(&mut pickle, &tensor.contiguous().stride());
            pickle.push(0x89);
            pickle.extend(DICT);
            pickle.extend(b"tR");
            let mut data = vec![0; 4 * count];
            tensor.to_kind(Kind::Float).contiguous().copy_data_u8(&mut data, count);
            records.push((format!("archive/data/{key}"), data));
        }
        pickle.extend(b"us");
    }
    pickle.push(b'.');
    records.insert(0, ("archive/data.pkl".to_owned(), pickle));
    std::fs::write(path, zip(&records)).expect("a file");
}
