//! Where keys come from: bases, `--set`, defaults, and what is laid over what.

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::super::{Mapping, Tree, Value, differences, kind_of, misspellings, overlay, read, to_yaml, typed_over};
use super::{
    BlockConfig, FixedConfig, GridConfig, LinearConfig, MaskConfig, RatioConfig, Recipe, TrainConfig, TurnsConfig,
    UniformConfig, error, read_with,
};
use crate::Error;

fn yaml(text: &str) -> Value {
    read::parse(text).unwrap()
}

fn tree(text: &str) -> Tree {
    Tree::from_value(yaml(text), "code")
}

/// A part that is off by default.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Owner {
    #[serde(deserialize_with = "super::super::optional")]
    block: Option<BlockConfig>,
}

#[test]
fn a_part_that_is_off_is_turned_on_by_what_differs() {
    let read = |text: &str| {
        let mut whole = Tree::from_value(Value::from(Mapping::new()), "defaults");
        whole.set("block=null").unwrap();
        whole.set(text).unwrap();
        whole.typed::<Owner>(&[]).map(|owner| owner.block).map_err(|error| error.to_string())
    };
    let on = BlockConfig::default;
    assert_eq!(read("block=null"), Ok(None));
    assert_eq!(read("block={}"), Ok(Some(on())));
    assert_eq!(read("block={smallest: 3}"), Ok(Some(BlockConfig { smallest: 3, ..on() })));
    assert_eq!(read("block.smallest=3"), Ok(Some(BlockConfig { smallest: 3, ..on() })));
    for (wrong, line) in [
        ("block={smalest: 3}", "block has no key 'smalest', did you mean 'smallest'? It takes smallest, aspect"),
        ("block={kind: block}", "block has no key 'kind'. It takes smallest, aspect"),
        ("block={smallest: x}", "block.smallest: expected a whole number (0 or more), found the text \"x\""),
        ("block=on", "block: expected a mapping of keys, found the text \"on\""),
        ("block=3", "block: expected a mapping of keys, found the number 3"),
    ] {
        assert_eq!(read(wrong), Err(format!("--set {wrong}: {line}")));
    }
}

#[test]
fn a_key_four_deep_in_a_base_is_placed_there() {
    let base = "# tiny\nmethod:\n  mask:\n    kind: uniform\n    ratio:\n      kind: linear\n      from: x\n";
    let files = [
        ("main.yaml", "base: middle.yaml\nseed: 2\n"),
        ("middle.yaml", "base: low.yaml\nmethod: { width: 3 }"),
        ("low.yaml", base),
    ];
    let expected = "low.yaml:7:7: method.mask.ratio.from: expected a number, found the text \"x\"";
    assert_eq!(read_with(&files, &[]).unwrap_err(), expected);
    // The upper layer wins, in the value and in the place.
    assert_eq!(
        read_with(&files, &["method.mask.ratio.from=y"]).unwrap_err(),
        "--set method.mask.ratio.from=y: method.mask.ratio.from: expected a number, found the text \"y\""
    );
    let recipe = read_with(&files, &["method.mask.ratio.from=.25", "train.rate=1e-4"]).unwrap();
    let MaskConfig::Uniform(mask) = recipe.method.mask else { panic!("another kind") };
    assert_eq!(mask.ratio, RatioConfig::Linear(LinearConfig { from: 0.25, to: 0.8 }));
    assert_eq!((recipe.seed, recipe.method.width, recipe.train.rate), (2, 3, 1e-4));
}

#[test]
fn bases_are_named_relative_to_the_file_that_names_them() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("a/b/main.yaml", "base: ../up.yaml");
    write("a/up.yaml", "base: root/../b/side.yaml\nseed: 4");
    std::fs::create_dir_all(folder.path().join("a/root")).unwrap();
    write("a/b/side.yaml", "seed: 5\nname: x");
    let tree = Tree::load(folder.path().join("a/b/main.yaml")).unwrap();
    assert_eq!(tree.root(), &yaml("{ seed: 4, name: x }"));
}

#[test]
fn flow_mappings_and_wide_letters() {
    assert_eq!(
        error("method: { mask: {kind: uniform, ratio: .6, lesat: 3} }"),
        "main.yaml:1:44: method.mask has no key 'lesat', did you mean 'least'? It takes kind, ratio, least"
    );
    // Columns count characters.
    assert!(error("train: { name: \"größe\", rate: x }").starts_with("main.yaml:1:25: train.rate: "));
}

#[test]
fn a_changed_kind_replaces_and_leaves_no_place_behind() {
    let files = [
        ("main.yaml", "base: low.yaml\nmethod: { mask: { kind: block } }"),
        ("low.yaml", "method: { mask: { ratio: x } }"),
    ];
    let recipe = read_with(&files, &[]).unwrap();
    assert_eq!(recipe.method.mask, MaskConfig::Block(BlockConfig::default()));
    assert_eq!(read_with(&files, &["method.mask.kind=grid"]).unwrap().method.mask, MaskConfig::Grid(GridConfig {}));
    let problem = read_with(&files, &["method.mask.kind=gird"]).unwrap_err();
    assert!(problem.starts_with("--set method.mask.kind=gird: method.mask.kind: there is no 'gird'"), "{problem}");
    let problem = read_with(&files, &["method.mask.ratio=.5"]).unwrap_err();
    let expected = "--set method.mask.ratio=.5: method.mask has no key 'ratio'. It takes kind, smallest, aspect";
    assert_eq!(problem, expected);
}

#[test]
fn set_refuses_bad_forms() {
    let mut tree = tree("{ views: [{ size: 1 }, { size: 2 }] }");
    let mut refused = |option: &str| tree.set(option).unwrap_err().to_string();
    assert_eq!(refused("train.steps"), "--set train.steps: expected key.path=value");
    assert_eq!(refused("=3"), "--set =3: expected key.path=value");
    assert_eq!(refused("a..b=3"), "--set a..b=3: expected key.path=value");
    assert_eq!(refused("base=x.yaml"), "--set base=x.yaml: base can only stand in a recipe file");
    assert!(refused("a=[1, 2").starts_with("--set a=[1, 2: this is not valid YAML: "));
    assert!(refused(&format!("{}=1", "a.".repeat(100_000) + "a")).ends_with("the key path has more than 32 keys"));
}

#[test]
fn set_reaches_into_lists() {
    let mut tree = tree("{ views: [{ size: 1 }, { size: 2 }] }");
    tree.set("views.1.size=7").unwrap();
    tree.set("views.0={ flip: true }").unwrap();
    assert_eq!(tree.root(), &yaml("{ views: [{ size: 1, flip: true }, { size: 7 }] }"));
    assert_eq!(tree.value(&["views", "1", "size"]), Some(&Value::from(7)));
    let line = |mut tree: Tree, option: &str| {
        tree.set(option).unwrap();
        tree.typed::<Value>(&[]).unwrap_err().to_string()
    };
    assert_eq!(
        line(tree.clone(), "views.2.size=1"),
        "--set views.2.size=1: there is no entry 2: the list has 2, counted from 0"
    );
    assert_eq!(
        line(tree.clone(), "views.x=1"),
        "--set views.x=1: 'x' names an entry of a list, where a number (from 0) is needed"
    );
    tree.set("views.1.size=x").unwrap();
    assert_eq!(
        tree.typed::<u64>(&["views", "1", "size"]).unwrap_err().to_string(),
        "--set views.1.size=x: views.1.size: expected a whole number (0 or more), found the text \"x\""
    );
    // Before the defaults are known.
    let mut early = Tree::from_value(Value::Mapping(Mapping::new()), "code");
    early.set("views.1.size=9").unwrap();
    early.over(yaml("{ views: [{ size: 1 }, { size: 2 }] }"));
    assert_eq!(early.root(), &yaml("{ views: [{ size: 1 }, { size: 9 }] }"));
}

#[test]
fn parts_are_written_kind_first_and_read_from_differences() {
    let mask = |text: &str| tree(&format!("mask: {text}")).typed::<MaskConfig>(&["mask"]).unwrap();
    let turns = mask("{ masks: [grid, { smallest: 3, kind: block }, { ratio: 0.5, kind: uniform }], kind: turns }");
    let half = RatioConfig::Fixed(FixedConfig { value: 0.5 });
    let masks = vec![
        MaskConfig::Grid(GridConfig {}),
        MaskConfig::Block(BlockConfig { smallest: 3, ..BlockConfig::default() }),
        MaskConfig::Uniform(UniformConfig { ratio: half, least: None }),
    ];
    assert_eq!(turns, MaskConfig::Turns(TurnsConfig { masks }));
    let written = "kind: turns\nmasks:\n- kind: grid\n- kind: block\n  smallest: 3\n  aspect:\n  - 0.3\n  - 3.3\n- kind: uniform\n  ratio:\n    kind: fixed\n    value: 0.5\n  least: null\n";
    let value = serde_yaml::to_value(&turns).unwrap();
    assert_eq!(to_yaml(&value), written);
    assert_eq!(mask(&format!("{{ kind: turns, masks: {} }}", serde_json_like(&value["masks"]))), turns);
    assert_eq!(MaskConfig::default(), MaskConfig::Uniform(UniformConfig::default()));
    assert_eq!(turns.kind(), "turns");
    assert_eq!(MaskConfig::KINDS[0], ("uniform", "Every token alike."));
    assert_eq!(MaskConfig::KINDS.len(), 4);
}

/// The value on one line: YAML takes in JSON.
fn serde_json_like(value: &Value) -> String {
    match value {
        Value::Mapping(mapping) => {
            let entries: Vec<_> =
                mapping.iter().map(|(k, v)| format!("{}: {}", k.as_str().unwrap(), serde_json_like(v))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Sequence(list) => format!("[{}]", list.iter().map(serde_json_like).collect::<Vec<_>>().join(", ")),
        other => to_yaml(other).trim().to_owned(),
    }
}

#[test]
fn a_bare_name_below_a_mapping_gives_its_kind() {
    let mut tree = tree("mask: block");
    tree.set("mask.smallest=5").unwrap();
    tree.over(yaml("mask: { kind: uniform, least: 3 }"));
    let MaskConfig::Block(block) = tree.typed::<MaskConfig>(&["mask"]).unwrap() else { panic!("another kind") };
    assert_eq!(block.smallest, 5);
}

#[test]
fn every_misspelt_key_is_refused_and_the_right_one_proposed() {
    let mut whole = serde_yaml::to_value(Recipe::default()).unwrap();
    let turns = yaml(
        "{ kind: turns, masks: [{ kind: block, smallest: 2, aspect: [1, 2] }, { kind: uniform, least: 1, ratio: { kind: linear, from: 0, to: 1 } }] }",
    );
    overlay(
        &mut whole,
        Value::Mapping(Mapping::from_iter([(
            "method".into(),
            Value::Mapping(Mapping::from_iter([("mask".into(), turns)])),
        )])),
    );
    let wrong = misspellings(&whole);
    let mut keys = 0;
    count(&whole, &mut keys);
    assert_eq!((wrong.len(), keys), (23, 23));
    for with_defaults in [false, true] {
        for key in &wrong {
            let mut tree = Tree::from_value(key.put_in(&whole), "code");
            if with_defaults {
                tree.over(serde_yaml::to_value(Recipe::default()).unwrap());
            }
            let problem = tree.typed::<Recipe>(&[]).unwrap_err().to_string();
            let owner = if key.path.is_empty() { "the recipe".to_owned() } else { key.path.join(".") };
            let expected = format!("code: {owner} has no key '{}', did you mean '{}'? It takes ", key.wrong, key.right);
            assert!(problem.starts_with(&expected), "{problem}\nexpected {expected}");
        }
    }
}

fn count(value: &Value, keys: &mut usize) {
    match value {
        Value::Mapping(mapping) => {
            *keys += mapping.len();
            mapping.values().for_each(|value| count(value, keys));
        }
        Value::Sequence(list) => list.iter().for_each(|value| count(value, keys)),
        _ => {}
    }
}

#[test]
fn a_register_filled_at_run_time_gives_the_same_errors() {
    let read = |text: &str| {
        tree(text).read(&["method"], |value| match kind_of(value, &["mae", "simmim"])? {
            "mae" => typed_over::<TurnsConfig>(value).map(|config| config.masks.len()),
            _ => typed_over::<TrainConfig>(value).map(|config| config.steps as usize),
        })
    };
    assert_eq!(read("method: { kind: mae, masks: [grid] }").unwrap(), 1);
    assert_eq!(read("method: simmim").unwrap(), 2000);
    let line = |text: &str| read(text).unwrap_err().to_string();
    assert_eq!(
        line("method: { kind: maee }"),
        "code: method.kind: there is no 'maee', did you mean 'mae'? There are mae, simmim"
    );
    assert_eq!(
        line("method: { kind: mae, maks: [] }"),
        "code: method has no key 'maks', did you mean 'masks'? It takes kind, masks"
    );
    assert_eq!(
        line("method: { kind: mae, masks: [ { kind: uniform, ratio: { kind: fixed, value: x } } ] }"),
        "code: method.masks.0.ratio.value: expected a number, found the text \"x\""
    );
}

#[test]
fn values_that_parts_refuse_get_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("main.yaml");
    std::fs::write(&path, "method:\n  mask:\n    ratio: 2\n  views: [{ size: 3 }]\n").unwrap();
    let tree = Tree::load(&path).unwrap();
    let line = |error: Error| error.to_string().replace(&format!("{}/", folder.path().display()), "");
    assert_eq!(
        line(tree.refuse("method.mask.ratio", "must be below 1")),
        "main.yaml:3:5: method.mask.ratio: must be below 1"
    );
    assert_eq!(line(tree.refuse("method.mask.low", "is needed")), "main.yaml:2:3: method.mask.low: is needed");
    assert_eq!(line(tree.refuse("", "too small")), "main.yaml: the recipe: too small");
    let place = |what: &str, prefix: &str| line(tree.place(Error::value(what, "must be below 1"), prefix));
    assert_eq!(place("ratio", "method.mask"), "main.yaml:3:5: method.mask.ratio: must be below 1");
    assert_eq!(place("mask.ratio", "method"), "main.yaml:3:5: method.mask.ratio: must be below 1");
    assert_eq!(place("ratio", "method"), "main.yaml:3:5: method.mask.ratio: must be below 1");
    assert_eq!(place("sampler.size", "method"), "main.yaml:4:13: method.views.0.size: must be below 1");
    assert_eq!(place("plan", "method.mask"), "main.yaml:2:3: method.mask: plan: must be below 1");
    assert_eq!(place("", "nowhere"), "main.yaml: nowhere: : must be below 1");
    assert_eq!(line(tree.place(Error::Torch("x".to_owned()), "method")), "libtorch: x");
}

#[test]
fn differences_name_the_keys() {
    let a = yaml("{ seed: 1, train: { steps: 10, clip: 1 }, views: [{ size: 1 }, 2], list: [1] }");
    let b = yaml("{ train: { steps: 20, rate: 1 }, seed: 1, views: [{ size: 3 }, 2], list: [1, 2] }");
    assert_eq!(differences(&a, &b), ["train.steps", "train.clip", "train.rate", "views.0.size", "list"]);
    assert_eq!(differences(&a, &a), Vec::<String>::new());
    assert_eq!(differences(&yaml(".nan"), &yaml(".nan")), Vec::<String>::new());
}

/// Any tree that a recipe can be.
fn any_tree() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "[ -~]{0,8}",
        Just("1e-4".to_owned()),
        Just("no".to_owned()),
        Just("012".to_owned()),
        "[0-9_.eE+-]{1,6}"
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e9..1e9_f64).prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        let key = prop_oneof![Just("kind".to_owned()), "[a-c]", "[a-z_]{1,6}"];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key, inner, 0..5).prop_map(|map| Value::Mapping(
                map.into_iter().map(|(key, value)| (Value::from(key), value)).collect()
            )),
        ]
    })
}

fn any_mapping() -> impl Strategy<Value = Value> {
    any_tree().prop_map(|value| match value {
        mapping @ Value::Mapping(_) => mapping,
        other => Value::Mapping(Mapping::from_iter([(Value::from("a"), other)])),
    })
}

fn over(lower: &Value, upper: &Value) -> Value {
    let mut result = lower.clone();
    overlay(&mut result, upper.clone());
    result
}

proptest! {
    #[test]
    fn an_empty_mapping_changes_nothing(tree in any_mapping()) {
        let empty = Value::Mapping(Mapping::new());
        prop_assert_eq!(&over(&tree, &empty), &tree);
        prop_assert_eq!(&over(&empty, &tree), &tree);
    }

    #[test]
    fn overlaying_twice_is_overlaying_once(lower in any_mapping(), upper in any_mapping()) {
        let once = over(&lower, &upper);
        prop_assert_eq!(&over(&once, &upper), &once);
        prop_assert_eq!(&over(&upper, &upper), &upper);
    }

    #[test]
    fn the_upper_wins_and_the_lower_stays_elsewhere(lower in any_mapping(), upper in any_mapping()) {
        let both = over(&lower, &upper);
        let replaced = matches!((lower.get("kind"), upper.get("kind")), (Some(a), Some(b)) if a != b);
        for (key, value) in upper.as_mapping().unwrap() {
            if !value.is_mapping() {
                prop_assert_eq!(both.get(key), Some(value));
            }
        }
        for (key, value) in lower.as_mapping().unwrap() {
            if upper.get(key).is_none() {
                prop_assert_eq!(both.get(key), if replaced { None } else { Some(value) });
            }
        }
    }

    #[test]
    fn what_is_written_is_read_again(tree in any_mapping()) {
        let text = to_yaml(&tree);
        let again = read::parse(&text).map_err(|(_, problem)| TestCaseError::fail(format!("{problem}: {text}")))?;
        prop_assert_eq!(&again, &tree);
        prop_assert!(differences(&again, &tree).is_empty());
    }

    #[test]
    fn no_text_makes_a_panic(text in "[a-c:\\-\\[\\]{}&*!|>'\"#%@`<\n\t ,.0-9?~]{0,60}", option in "\\PC{0,20}") {
        let _ = read::parse_recipe(&text).map(|raw| read::merged(&raw));
        let mut tree = Tree::from_value(Value::from("x"), "code");
        let _ = tree.set(&option);
        let _ = tree.typed::<Recipe>(&[]);
    }
}
