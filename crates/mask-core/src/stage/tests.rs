//! Stages over a modality of this page: points in the plane, several of them a sample.

use std::path::Path;

use ndarray::Array2;
use tch::{Device, Kind, Tensor};

use super::artefact::State;
use super::record::{FILE, Record};
use super::shards::names;
use super::*;
use crate::data::{Array, Ask, Front, Item, ItemView};
use crate::grid::{Grid, Layout};
use crate::method::Split;
use crate::recipe::Value;
use crate::run::Register;
use crate::{Error, Named, Result};

const REGISTER: Register = Register::empty("points", "points", "points", "points");

/// Three points a sample, round (0, 0), (10, 0) or (0, 10) in turn; sample 5 can't be read.
struct Points(u64);

fn point(id: u64, at: u64) -> [f32; 2] {
    let near = ((id * 3 + at) % 7) as f32 * 0.01;
    match (id + at) % 3 {
        0 => [near, 0.0],
        1 => [10.0, near],
        _ => [0.0, 10.0 + near],
    }
}

impl Front for Points {
    fn len(&self) -> u64 {
        self.0
    }

    fn plan(&self, global: &[u64], _: &Ask<'_>) -> Result<Vec<Item>> {
        let view = || ItemView { layout: Layout::single(Grid::line(3)), draft: None, inputs: Named::new() };
        Ok(global.iter().map(|id| Item { id: *id, views: vec![view()] }).collect())
    }

    fn fill(&self, item: &mut Item, _: &Ask<'_>) -> Result<()> {
        if item.id == 5 {
            return Err(Error::value("sample", "5 is damaged"));
        }
        let values = Array2::from_shape_fn((3, 2), |(at, axis)| point(item.id, at as u64)[axis]);
        item.views[0].inputs.insert("points".to_owned(), Array::F32(values.into_dyn()));
        Ok(())
    }
}

fn bench<'a>(folder: &'a Path, made: &'a Artefacts, data: &'a Value) -> Workbench<'a> {
    Workbench { name: "test", register: &REGISTER, folder, made, data, recipe: None, device: Device::Cpu, threads: 1 }
}

/// Writes the points of both splits as features; files of two samples each.
fn write_points(folder: &Path) -> Shape {
    let (made, data) = (Artefacts::none(), Value::Null);
    let mut first = None;
    for (split, samples) in SPLITS.into_iter().zip([9, 4]) {
        let front = Points(samples);
        let shape = Shape { per_shard: 2, ..Shape::of(&front, 2, Named::new()).unwrap() };
        write_rows(&bench(folder, &made, &data), &front, split, &shape, &mut |view, _| {
            Ok((vec![("values".to_owned(), view.input("points")?.shallow_clone())], None))
        })
        .unwrap();
        first.get_or_insert(shape);
    }
    first.unwrap()
}

fn made(kind: &str, folder: &Path) -> Artefact {
    Artefact {
        kind: kind.to_owned(),
        key: "0".repeat(64),
        folder: folder.to_owned(),
        state: State::Made,
        measured: Measured::new(),
        opener: None,
    }
}

#[test]
fn rows_are_found_by_the_samples_number_and_what_could_not_be_read_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let shape = write_points(folder.path());
    let shards = Shards::open(folder.path(), Split::Train).unwrap();
    assert_eq!((&shards.shape, shards.rows(), shards.files().count()), (&shape, 24, 5));
    assert_eq!(shards.shape.grid.as_deref(), Some(&[3][..]));
    for id in 0..9 {
        let (file, rows) = shards.of(id).unwrap();
        let expected: Vec<f32> = if id == 5 { Vec::new() } else { (0..3).flat_map(|at| point(id, at)).collect() };
        let found = file.rows("values", rows).unwrap();
        assert_eq!(Vec::<f32>::try_from(found.reshape([-1])).unwrap(), expected, "sample {id}");
    }
    assert!(shards.of(9).is_err());
    shards.check(&Points(9)).unwrap();
    assert!(shards.check(&Points(8)).unwrap_err().to_string().contains("other samples"));
    assert_ne!(names(&Points(9)), names(&Points(8)));
}

/// An interrupted stage goes on with the first file that isn't there, and writes the same.
#[test]
fn rows_go_on_where_they_stopped() {
    let [alone, stopped] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    write_points(alone.path());
    write_points(stopped.path());
    let file = |folder: &Path, number: u32| folder.join(format!("train-{number:05}.safetensors"));
    let kept = std::fs::metadata(file(stopped.path(), 0)).unwrap().modified().unwrap();
    for number in [2, 3, 4] {
        std::fs::remove_file(file(stopped.path(), number)).unwrap();
    }
    write_points(stopped.path());
    for number in 0..5 {
        let [a, b] = [alone.path(), stopped.path()].map(|folder| std::fs::read(file(folder, number)).unwrap());
        assert!(a == b, "file {number}");
    }
    assert_eq!(std::fs::metadata(file(stopped.path(), 0)).unwrap().modified().unwrap(), kept);
}

/// Features, centres, labels, statistics: each from what the one before wrote.
#[test]
fn clusters_label_every_position() {
    let temp = tempfile::tempdir().unwrap();
    let place = |name: &str| {
        let folder = temp.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    };
    let (features, clusters, labels, counts) = (place("f"), place("c"), place("l"), place("s"));
    write_points(&features);
    let mut all = Artefacts::none();
    all.insert("points", made("features", &features));
    let data = Value::Null;
    let config = KmeansConfig { from: "points".to_owned(), clusters: 3, tries: 3, ..KmeansConfig::default() };
    let measured = config.make(&bench(&clusters, &all, &data)).unwrap();
    assert_eq!((measured["rows"].as_u64(), measured["reseeded"].as_u64()), (Some(24), Some(0)));
    assert!(measured["inertia"].as_f64().unwrap() < 0.01, "{measured:?}");
    all.insert("clusters", made("kmeans", &clusters));
    let column = ColumnConfig { features: "points".to_owned(), clusters: "clusters".to_owned() };
    let config = LabelsConfig { columns: vec![column.clone(), column] };
    let measured = config.make(&bench(&labels, &all, &data)).unwrap();
    assert!((measured["perplexity_0"].as_f64().unwrap() - 3.0).abs() < 0.01 && measured["used_1"] == 1.0);
    let store = LabelStore::open(&labels).unwrap();
    let ids = |name: &str| Column { name: name.to_owned(), ids: 3 };
    assert_eq!(store.columns(), [ids("0"), ids("1")]);
    assert_eq!((store.grid(), store.rate()), (Some(&[3][..]), None));
    let name_of: Vec<i64> = store.labels(Split::Train, 0, 0).unwrap(); // of the three places, in their order
    for (split, samples) in [(Split::Train, 9), (Split::HeldOut, 4)] {
        for id in (0..samples).filter(|id| *id != 5) {
            let expected: Vec<i64> = (0..3).map(|at| name_of[((id + at) % 3) as usize]).collect();
            assert_eq!(store.labels(split, id, 1).unwrap(), expected, "{split:?} {id}");
        }
    }
    assert!(store.labels(Split::Train, 5, 0).unwrap_err().to_string().contains("could not be read"));
    assert!(store.labels(Split::Train, 0, 2).is_err() && store.labels(Split::HeldOut, 4, 0).is_err());
    assert_eq!(store.counts(Split::Train, 0).unwrap(), [8, 8, 8]);

    all.insert("labels", made("labels", &labels));
    let config = StatisticsConfig { from: "labels".to_owned() };
    config.make(&bench(&counts, &all, &data)).unwrap();
    let stored = crate::store::read(&counts.join("statistics.safetensors")).unwrap().tensors;
    assert_eq!(Vec::<i64>::try_from(&stored["counts.1"]).unwrap(), [8, 8, 8]);
    let config = StatisticsConfig { from: "points".to_owned() };
    config.make(&bench(&counts, &all, &data)).unwrap();
    let stored = crate::store::read(&counts.join("statistics.safetensors")).unwrap().tensors;
    let rows: Vec<[f32; 2]> = (0..9).filter(|id| *id != 5).flat_map(|id| (0..3).map(move |at| point(id, at))).collect();
    for axis in 0..2 {
        let values: Vec<f64> = rows.iter().map(|row| f64::from(row[axis])).collect();
        let mean = values.iter().sum::<f64>() / 24.0;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 24.0;
        assert!((stored["mean"].double_value(&[axis as i64]) - mean).abs() < 1e-9);
        assert!((stored["variance"].double_value(&[axis as i64]) - variance).abs() < 1e-9);
    }
}

#[test]
fn damaged_rows_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let line = || Shards::open(folder.path(), Split::Train).unwrap_err().to_string();
    write_points(folder.path());
    let third = folder.path().join("train-00002.safetensors");
    let whole = std::fs::read(&third).unwrap();
    std::fs::remove_file(&third).unwrap();
    assert!(line().ends_with("train-00002.safetensors: does not exist; check the path"), "{}", line());
    std::fs::write(&third, &whole[..whole.len() - 3]).unwrap();
    assert!(line().contains("train-00002.safetensors: is cut off"), "{}", line());
    let offsets = |offsets: &[i64], samples: &str| {
        let tensors = vec![("offsets".to_owned(), Tensor::from_slice(offsets))];
        let mut metadata = crate::store::read_header(&folder.path().join("train-00000.safetensors")).unwrap().metadata;
        metadata.insert("samples".to_owned(), samples.to_owned());
        crate::store::write(&third, &tensors, &metadata).unwrap();
    };
    offsets(&[0, 3], "9");
    assert!(line().ends_with("has 2 offsets, 3 were expected"), "{}", line());
    offsets(&[0, 4, 3], "9");
    assert!(line().ends_with("has offsets that don't ascend from 0"), "{}", line());
    offsets(&[0, 3, 6], "10");
    assert!(line().ends_with("belongs to other samples than the files before it"), "{}", line());
    offsets(&[0, 3, 6], "many");
    assert!(line().contains("is no file of rows"), "{}", line());
    // Features are no labels, and labels beyond the last id are told.
    write_points(tempfile::tempdir().unwrap().path());
    std::fs::write(&third, &whole).unwrap();
    assert!(LabelStore::open(folder.path()).unwrap_err().to_string().contains("holds no labels"));
}

fn record(folder: &Path) -> Record {
    let record = Record {
        format: record::FORMAT,
        kind: "kmeans".to_owned(),
        key: "k".to_owned(),
        stage: serde_json::Value::Null,
        inputs: Named::new(),
        data: None,
        measured: Measured::new(),
        files: Default::default(),
        machine: String::new(),
        commit: None,
        seconds: 0.0,
    };
    record.write(folder).unwrap()
}

#[test]
fn changed_bytes_are_refused_by_name_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("inner")).unwrap();
    for (name, text) in [("a", "first"), ("inner/b", "second")] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    record(folder.path());
    let check = || Record::check(folder.path(), "kmeans", "k");
    let line = || check().err().map_or_else(String::new, |error| error.to_string());
    assert_eq!(line(), "");
    let again = format!("remove the folder {} to have it made again", folder.path().display());
    let b = folder.path().join("inner/b");
    std::fs::write(&b, "Second").unwrap(); // the same size
    assert_eq!(line(), format!("{}: has changed since it was made; {again}", b.display()));
    std::fs::write(&b, "seconds").unwrap();
    assert_eq!(line(), format!("{}: has changed since it was made; {again}", b.display()));
    std::fs::remove_file(&b).unwrap();
    assert_eq!(line(), format!("{}: has gone since it was made; {again}", b.display()));
    std::fs::write(&b, "second").unwrap();
    assert_eq!(line(), "");
    // A file beside the others is nobody's.
    std::fs::write(folder.path().join("c"), "more").unwrap();
    assert_eq!(line(), "");
    let path = folder.path().join(FILE);
    let refused = Record::check(folder.path(), "kmeans", "other").unwrap_err().to_string();
    assert_eq!(refused, format!("{}: is the record of another artefact; {again}", path.display()));
    for text in ["", "{", "[]", "{\"format\": 1}", "\u{0}"] {
        std::fs::write(&path, text).unwrap();
        assert!(line().starts_with(&format!("{}: is no record of an artefact (", path.display())), "{}", line());
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(line(), format!("{}: does not exist; {again}", path.display()));
}

#[test]
fn names_of_a_runs_artefacts_are_read_back_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = Artefacts::none();
    all.insert("codes", made("labels", folder.path()));
    note(folder.path(), &all).unwrap();
    let keyed = |digit: &str| {
        let (name, key) = ("codes".to_owned(), digit.repeat(64));
        [Keyed { name, key, data: None, folder: folder.path().to_owned() }]
    };
    same_artefacts(folder.path(), &keyed("0")).unwrap();
    let line = same_artefacts(folder.path(), &keyed("1")).unwrap_err().to_string();
    assert!(
        line.contains("was begun over the artefact 0000000000000000 of stage codes, which is 1111111111111111 now")
    );
    for text in ["", "[1]", "{\"codes\": \"x\"}"] {
        std::fs::write(folder.path().join("stages.json"), text).unwrap();
        assert!(
            same_artefacts(folder.path(), &keyed("0")).unwrap_err().to_string().contains("doesn't name the artefacts")
        );
    }
}

#[test]
fn a_column_holds_its_ids_in_the_smallest_type() {
    let ids = Tensor::from_slice(&[0i64, 255, 7]);
    for (most, kind) in [(256, Kind::Uint8), (257, Kind::Int16), (32_769, Kind::Int)] {
        let narrow = store::narrow(&ids, most);
        assert_eq!(
            (narrow.kind(), Vec::<i64>::try_from(narrow.to_kind(Kind::Int64)).unwrap()),
            (kind, vec![0, 255, 7])
        );
    }
}
