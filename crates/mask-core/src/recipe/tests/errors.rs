//! Every sort of error with its exact line.

use std::path::Path;

use super::super::Tree;
use super::{BlockConfig, MaskConfig, Recipe, TrainConfig, error, good};
use crate::Error;

#[test]
fn unknown_keys() {
    assert_eq!(
        error("seed: 1\nmethod: { width: 4, mask: { ratio: { kind: linear, form: 0.3, to: 0.8 } } }\n"),
        "main.yaml:2:52: method.mask.ratio has no key 'form', did you mean 'from'? It takes kind, from, to"
    );
    assert_eq!(
        error("trian: {}"),
        "main.yaml:1:1: the recipe has no key 'trian', did you mean 'train'? It takes seed, method, train"
    );
    assert_eq!(
        error("train:\n  colour: 3\n"),
        "main.yaml:2:3: train has no key 'colour'. It takes steps, rate, decay, keep, shuffle, name, clip"
    );
    assert_eq!(
        error("method:\n  mask:\n    kind: grid\n    a`b: 1"),
        "main.yaml:4:5: method.mask has no key 'a`b'. It takes kind"
    );
    assert_eq!(
        error("method: { mask: { kind: turns, masks: [ grid, { knid: grid } ] } }"),
        "main.yaml:1:49: method.mask.masks.1 has no key 'knid', did you mean 'kind'? It takes kind, ..."
    );
}

#[test]
fn wrong_types() {
    let train = |line: &str| error(&format!("train:\n  {line}"));
    assert_eq!(
        train("steps: abc"),
        "main.yaml:2:3: train.steps: expected a whole number (0 or more), found the text \"abc\""
    );
    assert_eq!(
        train("steps: -3"),
        "main.yaml:2:3: train.steps: expected a whole number (0 or more), found the number -3"
    );
    assert_eq!(
        train("steps: 1e3"),
        "main.yaml:2:3: train.steps: expected a whole number (0 or more), found the number 1000.0; write 1000"
    );
    assert_eq!(
        train("keep: 300"),
        "main.yaml:2:3: train.keep: expected a whole number from 0 to 255, found the number 300"
    );
    assert_eq!(train("rate: [1]"), "main.yaml:2:3: train.rate: expected a number, found a list");
    assert_eq!(train("rate:"), "main.yaml:2:3: train.rate: expected a number, found nothing (null)");
    assert_eq!(train("rate: true"), "main.yaml:2:3: train.rate: expected a number, found true");
    assert_eq!(train("name: 12"), "main.yaml:2:3: train.name: expected text, found the number 12; put it in quotes");
    assert_eq!(train("decay: 12"), "main.yaml:2:3: train.decay: expected a name, found the number 12");
    assert_eq!(error("train: [1]"), "main.yaml:1:1: train: expected a mapping of keys, found a list");
    assert_eq!(
        error("method: { mask: 3 }"),
        "main.yaml:1:11: method.mask: expected a mapping with 'kind' or the name of a kind, found the number 3"
    );
    let aspect = |list: &str| error(&format!("method: {{ mask: {{ kind: block, aspect: {list} }} }}"));
    assert_eq!(aspect("[1]"), "main.yaml:1:32: method.mask.aspect: expected 2 entries, found 1");
    assert_eq!(aspect("[1, 2, 3]"), "main.yaml:1:32: method.mask.aspect: expected fewer entries, found 3");
    assert_eq!(aspect("[1, x]"), "main.yaml:1:44: method.mask.aspect.1: expected a number, found the text \"x\"");
}

#[test]
fn yaml_traps() {
    assert_eq!(good("train: { rate: 1e-4, steps: 7, clip: .5 }").train.rate, 1e-4);
    assert_eq!(good("train: { clip: null }").train.clip, None);
    let train = |line: &str| error(&format!("train:\n  {line}"));
    assert_eq!(
        train("steps: 1_000"),
        "main.yaml:2:3: train.steps: expected a whole number (0 or more), found the text \"1_000\"; write 1000 (YAML numbers have no '_')"
    );
    assert_eq!(
        train("steps: 012"),
        "main.yaml:2:3: train.steps: expected a whole number (0 or more), found the text \"012\"; write 12 (YAML numbers don't begin with 0)"
    );
    assert_eq!(
        train("shuffle: no"),
        "main.yaml:2:3: train.shuffle: expected true or false, found the text \"no\"; write false"
    );
    assert_eq!(
        train("rate: '0.1'"),
        "main.yaml:2:3: train.rate: expected a number, found the text \"0.1\"; write it without quotes"
    );
    assert_eq!(train("rate: 50%"), "main.yaml:2:3: train.rate: expected a number, found the text \"50%\"; write 0.5");
    assert_eq!(
        train("clip: None"),
        "main.yaml:2:3: train.clip: expected a number, found the text \"None\"; write null"
    );
}

#[test]
fn unknown_and_missing_kinds_and_names() {
    let there = "There are uniform, block, grid, turns";
    assert_eq!(
        error("method:\n  mask:\n    ratio: 1\n    kind: blok\n"),
        format!("main.yaml:4:5: method.mask.kind: there is no 'blok', did you mean 'block'? {there}")
    );
    assert_eq!(
        error("method: { mask: gird }"),
        format!("main.yaml:1:11: method.mask: there is no 'gird', did you mean 'grid'? {there}")
    );
    assert_eq!(
        error("method: { mask: { kind: 3 } }"),
        "main.yaml:1:19: method.mask.kind: expected text, found the number 3; put it in quotes"
    );
    assert_eq!(
        error("method: { mask: { kind: turns, masks: [{ smallest: 3 }] } }"),
        format!("main.yaml:1:40: method.mask.masks.0 lacks the key 'kind'. {there}")
    );
    assert_eq!(
        error("train: { decay: cosin }"),
        "main.yaml:1:10: train.decay: there is no 'cosin', did you mean 'cosine'? There are cosine, linear"
    );
}

#[test]
fn missing_keys_are_placed_at_their_mapping() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("main.yaml");
    std::fs::write(&path, "seed: 1\ntrain:\n  steps: 3\n").unwrap();
    let mut tree = Tree::load(&path).unwrap();
    tree.set("train.rate=1").unwrap();
    let line = |error: Error| error.to_string().replace(&format!("{}/", folder.path().display()), "");
    assert_eq!(line(tree.typed::<TrainConfig>(&["train"]).unwrap_err()), "main.yaml:2:1: train lacks the key 'decay'");
    assert_eq!(line(tree.typed::<Recipe>(&[]).unwrap_err()), "main.yaml:2:1: train lacks the key 'decay'");
    assert_eq!(line(tree.typed::<u64>(&["data", "seed"]).unwrap_err()), "main.yaml: the recipe lacks the key 'data'");
    assert_eq!(line(tree.typed::<u64>(&["train", "keep"]).unwrap_err()), "main.yaml:2:1: train lacks the key 'keep'");
    assert_eq!(tree.typed::<Option<TrainConfig>>(&["init"]).unwrap(), None);
    assert_eq!(error("train:"), "main.yaml:1:1: train (it is empty) lacks the key 'steps'");
}

#[test]
fn damaged_texts() {
    assert_eq!(
        error("train:\n  steps: 1\n  rate: 2\n  steps: 3"),
        "main.yaml:4:3: the key 'steps' stands twice in the same mapping"
    );
    assert_eq!(error("train:\n\tsteps: 1\n"), "main.yaml:2:1: the line is indented with a tab: YAML wants spaces");
    assert_eq!(
        error("train: { steps: 1\nseed: 2\n"),
        "main.yaml:2:5: this is not valid YAML: did not find expected ',' or '}', while parsing a flow mapping at line 1 column 8"
    );
    assert_eq!(
        error("seed: 1\n---\n\nseed: 2\n"),
        "main.yaml:4:1: a second document begins here (after '---'): a recipe is one"
    );
    assert_eq!(error("- seed\n"), "main.yaml:1:1: a recipe is a mapping ('key: value'), this is a list");
    assert_eq!(error("seed\n"), "main.yaml:1:1: a recipe is a mapping ('key: value'), this is a single value");
    for empty in ["", "# nothing\n", "---\n"] {
        assert_eq!(error(empty), "main.yaml: the recipe is empty: it needs at least one 'key: value'");
    }
    assert_eq!(
        error("seed: !int 3"),
        "main.yaml:1:7: recipes have no YAML tags (!name): choose a part with 'kind: name'"
    );
    assert_eq!(error("seed: *a"), "main.yaml:1:7: this alias (*name) has no anchor (&name) above it");
    assert_eq!(error("[a, b]: 1"), "main.yaml:1:1: a key must be text, this is a list");
    assert_eq!(error("seed: 1\n\"a\\x01b\": 1"), "main.yaml:2:1: the key \"a\\u{1}b\" holds a control character");
    assert_eq!(
        error("seed: 99999999999999999999"),
        "main.yaml:1:7: the whole number 99999999999999999999 is too large"
    );
}

#[test]
fn files_that_are_no_recipes() {
    let folder = tempfile::tempdir().unwrap();
    let line =
        |path: &Path| Tree::load(path).unwrap_err().to_string().replace(&folder.path().display().to_string(), "DIR");
    let path = folder.path().join("a.yaml");
    assert_eq!(line(&path), "DIR/a.yaml: there is no such recipe file");
    assert_eq!(line(folder.path()), "DIR: this is a folder, not a recipe file");
    std::fs::write(&path, b"seed: 1\n\xff\xfe").unwrap();
    assert_eq!(line(&path), "DIR/a.yaml:2: this is not UTF-8 text (byte 9)");
    std::fs::write(&path, b"seed: 1\n\0\0").unwrap();
    assert_eq!(line(&path), "DIR/a.yaml:2: this is not a text file (byte 9 is zero)");
    std::fs::write(&path, "x".repeat(1 << 21)).unwrap();
    assert_eq!(line(&path), "DIR/a.yaml: the file is larger than 1048576 bytes: this is not a recipe");
    std::fs::write(&path, "base: b.yaml").unwrap();
    assert_eq!(line(&path), "DIR/a.yaml:1:1: base: DIR/b.yaml does not exist");
    std::fs::write(&path, "seed: 1\nbase: 3").unwrap();
    assert_eq!(line(&path), "DIR/a.yaml:2:1: base: expected the path of a recipe");
    std::fs::write(&path, "base: b.yaml").unwrap();
    std::fs::write(folder.path().join("b.yaml"), "seed: 1\nbase: ./a.yaml").unwrap();
    assert_eq!(line(&path), "DIR/b.yaml:2:1: base: DIR/./a.yaml comes round again: it is among its own bases");
}

#[test]
fn bombs_end() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        bomb += &format!("a{i}: &a{i} [{}]\n", format!("*a{},", i - 1).repeat(9));
    }
    assert!(error(&bomb).ends_with("the aliases (*name) stand for too many values"), "{}", error(&bomb));
    let wide = format!("a: &a {}\nb: [{}]", "x".repeat(500_000), "*a,".repeat(100_000));
    assert!(error(&wide).ends_with("the aliases (*name) stand for too many values"));
    assert_eq!(error(&format!("a: {}", "{a: ".repeat(200_000))), "main.yaml:1:1: this is nested too deeply");
    assert!(
        error(&format!("a: {}", "[".repeat(300))).contains("not valid YAML")
            || error(&"[".repeat(300)).contains("deeply")
    );
    assert!(error(&format!("a:\n{}b", "- ".repeat(100_000))).ends_with("this is nested too deeply"));
}

#[test]
fn merge_keys_and_aliases_keep_their_places() {
    let text = "method: { mask: { kind: turns, masks: [ &first { kind: block, smallest: 3 }, { <<: *first, aspect: [1, 2] } ] } }";
    let MaskConfig::Turns(turns) = good(text).method.mask else { panic!("another kind") };
    assert_eq!(turns.masks[1], MaskConfig::Block(BlockConfig { smallest: 3, aspect: [1.0, 2.0] }));
    assert_eq!(
        error(&text.replace("smallest: 3", "smallest: x").replace("[ &first", "[ grid, &first")),
        "main.yaml:1:69: method.mask.masks.1.smallest: expected a whole number (0 or more), found the text \"x\""
    );
    let text = "method:\n  mask: { kind: turns, masks: [ &a { aspect: [1, x] }, { <<: *a, kind: block } ] }";
    assert_eq!(
        error(&text.replace("&a { ", "&a { kind: grid, aspct: 1, ").replace("[ &a", "[ grid, &a")).split(',').next(),
        Some("main.yaml:2:56: method.mask.masks.1 has no key 'aspct'. It takes kind")
    );
    assert_eq!(error("a: { <<: 3 }"), "main.yaml:1:6: '<<' takes a mapping or a list of mappings, as *name");
    assert_eq!(
        error("train:\n  <<: { stesp: 3 }\n").split(',').next(),
        Some("main.yaml:2:9: train has no key 'stesp'")
    );
}
