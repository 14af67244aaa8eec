//! Folders of the Hub give the numbers that their reference implementation gave: a test for each golden folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mask_core::{hub, store};
use mask_image::REGISTER;
use tch::{Device, Kind};

/// The largest absolute error allowed.
const TOLERANCE: f64 = 1e-4;

/// What the models read; every other tensor of a folder's io.safetensors is an output to be met.
const INPUTS: [&str; 3] = ["pixel_values", "noise", "bool_masked_pos"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn check(name: &str) {
    let path = folder(name);
    let model = hub::open(REGISTER.families, &path, Device::Cpu).unwrap();
    let io = store::read(&path.join("io.safetensors")).unwrap().tensors;
    let (inputs, expected): (mask_core::Named<_>, mask_core::Named<_>) =
        io.into_iter().partition(|(name, _)| INPUTS.contains(&name.as_str()));
    assert!(!inputs.is_empty() && !expected.is_empty(), "{name}: io.safetensors holds no inputs or no outputs");
    let outputs = model.forward(&inputs).unwrap();
    for (output, theirs) in &expected {
        let ours = outputs.get(output).unwrap_or_else(|| panic!("{name}: no output {output}"));
        assert_eq!(ours.size(), theirs.size(), "{name}: {output}");
        let error = (ours.to_kind(Kind::Double) - theirs.to_kind(Kind::Double)).abs().max().double_value(&[]);
        assert!(error <= TOLERANCE, "{name}: {output} differs by {error}");
    }
}

macro_rules! folders {
    ($($name:ident),+ $(,)?) => {
        /// Those that have a test.
        const TESTED: &[&str] = &[$(stringify!($name)),+];
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })+
    };
}

folders! { vit_mae, vit_mae_one_channel, simmim_vit, vit_encoder, beit, ijepa }

/// The index, the folders on disk and the tests above are one list.
#[test]
fn every_folder_is_in_the_index_and_has_a_test() {
    let names = |all: &mut dyn Iterator<Item = String>| all.collect::<BTreeSet<String>>();
    let lines = REGISTER.golden.lines().filter(|line| !line.trim_start().starts_with('#'));
    let index = names(&mut lines.filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())));
    let entries = std::fs::read_dir(folder("")).unwrap().map(|entry| entry.unwrap());
    let on_disk =
        names(&mut entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().into_string().unwrap()));
    assert_eq!(index, on_disk, "index.yaml and the folders beside it");
    assert_eq!(index, names(&mut TESTED.iter().map(|name| (*name).to_owned())), "index.yaml and the tests");
}

/// A method that the index names has to exist, or `list` would show nothing of it.
#[test]
fn the_index_names_methods_or_families() {
    for line in REGISTER.golden.lines().filter(|line| !line.starts_with('#')) {
        let (_, of) = line.split_once(':').unwrap_or_else(|| panic!("no 'folder: method': {line}"));
        let family = REGISTER.families.iter().any(|family| family.model_types().contains(&of.trim()));
        assert!(family || REGISTER.method(of.trim()).is_some(), "neither a method nor a family: {line}");
    }
}
