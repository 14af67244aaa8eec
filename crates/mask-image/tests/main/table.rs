//! Tables as users run them, with arms of seconds, in a folder of their own.

use std::fs;
use std::path::Path;
use std::process::Command;

use mask_core::recipe::{Tree, misspellings};
use mask_core::run::RunResult;
use mask_core::table::Table;
use mask_image::REGISTER;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{Running, done, json, mask, names, refused, root, say};

/// A table of two arms and two seeds.
const TABLE: &str = "\
title: How much is hidden
method: mae
ledger: 81
scales:
  mini:
    recipe: ../mae.yaml
    changes:
      data: { batch: { size: 8 } }
      method: { encoder: { depth: 1 }, predictor: { depth: 1 } }
      train: { steps: 30, checkpoint_every: 5, log_every: 1, schedule: { warmup_steps: 1 } }
      evaluate: [{ kind: held_out, every: 15, samples: 16 }, { kind: knn, every: 0, train: 60, test: 20 }]
seeds: 2
metrics: [{ name: knn, percent: true }, { name: held_out, better: lower }, { name: held_out@15, better: lower }]
arms:
  - { name: 50 %, set: [method.mask.ratio=0.5], paper: { linear: 69.9 } }
  - { name: 75 %, paper: { linear: 73.5 } }
claims:
  - name: hiding more is better
    means: [{ better: 75 %, than: 50 %, metric: knn }]
  - name: pre-training helps
    means: [{ better: [50 %, 75 %], than: random-initialised encoder, metric: knn, margin: -100 }]
notes: [too small to say anything]
";

/// A folder with the bundled data, the small recipe and one table.
fn house(table: &str) -> TempDir {
    let temp = tempfile::tempdir().expect("a folder");
    let image = temp.path().join("experiments/image");
    fs::create_dir_all(image.join("tables")).expect("folders");
    std::os::unix::fs::symlink(root().join("datasets"), temp.path().join("datasets")).expect("a link");
    for recipe in ["mae.yaml", "simmim.yaml", "tiny-28.yaml"] {
        fs::copy(root().join("experiments/image").join(recipe), image.join(recipe)).expect("a recipe");
    }
    fs::write(image.join("tables/hidden.yaml"), table).expect("a table");
    temp
}

fn table(house: &TempDir, arguments: &[&str]) -> Command {
    let mut command = mask([&["table"], arguments].concat());
    command.current_dir(house.path());
    command
}

/// The files of results, without the lines that hang on day, machine and time.
fn results(house: &TempDir) -> Vec<(String, String)> {
    let folder = house.path().join("experiments/image/results");
    let read = |name: String| {
        let text = fs::read_to_string(folder.join(&name)).expect("a file");
        let moving = ["  \"date\"", "  \"machine\"", "  \"seconds\"", "- date", "- machine", "- seconds"];
        let kept: Vec<&str> = text.lines().filter(|line| !moving.iter().any(|start| line.starts_with(start))).collect();
        (name, kept.join("\n"))
    };
    names(&folder).into_iter().map(read).collect()
}

fn change(house: &TempDir, file: &str, from: &str, to: &str) {
    let path = house.path().join(file);
    let text = fs::read_to_string(&path).expect("a file");
    assert!(text.contains(from), "{file} lacks {from}:\n{text}");
    fs::write(path, text.replacen(from, to, 1)).expect("a file");
}

#[test]
fn an_interrupted_table_ends_with_the_same_file() {
    let alone = house(TABLE);
    let said = say(&mut table(&alone, &["hidden"]));
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.contains("hiding more is better: ") && said.out.contains("results/hidden.md"), "{}", said.out);
    let wanted = results(&alone);
    assert_eq!(
        wanted.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["hidden.json", "hidden.md", "hidden.svg"]
    );

    let stopped = house(TABLE);
    let runs = stopped.path().join("runs/tables/hidden/mini");
    let mut running = Running::start(&mut table(&stopped, &["hidden", "--jobs", "2"]));
    assert!(running.until(|| runs.join("50/0/checkpoints").exists()), "it ended before it was stopped");
    running.signal("INT");
    let line = running.end().error(130);
    assert!(line.starts_with("error: interrupted; ") && line.ends_with("the same command goes on"), "{line}");
    let results_of = |arm: &str, seed: u64| RunResult::path(&runs.join(arm).join(seed.to_string()));
    let finished = || {
        ["50", "75"]
            .iter()
            .flat_map(|arm| [0, 1].map(|seed| results_of(arm, seed)))
            .filter(|path| path.is_file())
            .count()
    };
    assert!(finished() < 4 && !stopped.path().join("experiments/image/results").exists());
    done(&mut table(&stopped, &["hidden", "--jobs", "2"]));
    assert_eq!(finished(), 4);
    assert_eq!(results(&stopped), wanted);

    // A finished table runs nothing: the results of its runs keep their age.
    let age = |path: &Path| fs::metadata(path).and_then(|about| about.modified()).expect("an age");
    let before = age(&results_of("50", 0));
    let text = || fs::read(stopped.path().join("experiments/image/results/hidden.json")).expect("results");
    let bytes = text();
    done(&mut table(&stopped, &["hidden"]));
    assert!(age(&results_of("50", 0)) == before && text() == bytes);
    // Another recipe than that of the runs is refused, not mixed in.
    change(&stopped, "experiments/image/tables/hidden.yaml", "steps: 30", "steps: 31");
    let line = refused(&mut table(&stopped, &["hidden"]));
    assert!(
        line.contains("holds a run of another recipe than arm '50 %' has now: train.steps differ; remove it"),
        "{line}"
    );
}

#[test]
fn results_are_listed_checked_and_quoted() {
    let house = house(TABLE);
    let listed = || listed(&house);
    let untested = listed();
    assert_eq!((&untested["state"]["trained"], &untested["state"]["claim"]), (&Value::from(false), &"untested".into()));
    assert_eq!(untested["claims"]["hidden: hiding more is better"], "untested");
    let check = |arguments: &[&str]| say(&mut table(&house, &[&["--check"], arguments].concat()));
    assert_eq!(check(&[]).code, Some(0), "a table without results is no difference");

    done(&mut table(&house, &["hidden", "--seeds", "3..5"]));
    let file = house.path().join("experiments/image/results/hidden.json");
    let found: Value = serde_json::from_str(&fs::read_to_string(&file).expect("results")).expect("JSON");
    assert_eq!((&found["seeds"], &found["arms"][1]["name"]), (&serde_json::json!([3, 4]), &"75 %".into()));
    let command = "cargo run --release -p mask-image -- table hidden --seeds 3..5";
    assert_eq!(found["command"], command);
    assert_eq!(found["claims"][1]["verdict"], "reproduced", "no accuracy lies 100 points below another");
    for arm in found["arms"].as_array().expect("arms") {
        let values = |metric: &str| {
            arm["values"][metric].as_array().expect("values").iter().filter_map(Value::as_f64).collect::<Vec<_>>()
        };
        assert!(
            values("knn").iter().all(|share| (0.0..=100.0).contains(share)) && values("held_out").len() == 2,
            "{arm}"
        );
        assert_ne!(values("held_out@15"), values("held_out"));
        assert!(
            arm["flops"].as_f64().is_some_and(|flops| flops > 1e6)
                && arm["parameters"].as_u64().is_some_and(|n| n > 1000)
        );
    }
    let tested = listed();
    assert_eq!(tested["state"]["trained"], true);
    assert_eq!(tested["state"]["claim"], found["claims"][0]["verdict"]);
    assert_eq!(tested["claims"]["hidden: pre-training helps"], "reproduced");

    // Quoted figures.
    let page = fs::read_to_string(file.with_extension("md")).expect("the page");
    let row = page.lines().find(|line| line.starts_with("| 75 % | ")).expect("the arm's row");
    let knn = row.split('|').nth(2).and_then(|cell| cell.split('±').next()).expect("a figure").trim();
    let readme = house.path().join("README.md");
    let quote = |figure: &str| {
        let text = format!(
            "Hello\n\nkNN <!-- table:hidden arm=75 % metric=knn -->{figure}<!-- --> and <!-- table:hidden claim=pre-training helps -->reproduced<!-- -->.\n"
        );
        fs::write(&readme, text).expect("a file");
    };
    quote(knn);
    let head = format!("# table:hidden arm=75 % metric=knn: {knn}\n");
    let mae = house.path().join("experiments/image/mae.yaml");
    let recipe = fs::read_to_string(&mae).expect("the recipe");
    fs::write(&mae, head + &recipe).expect("a recipe");
    assert_eq!(check(&[]).code, Some(0), "{}", check(&[]).out);
    quote("99.9");
    let said = check(&["hidden"]);
    assert_eq!(
        said.out,
        format!("README.md:3: quotes '99.9' for hidden arm=75 % metric=knn, the results have '{knn}'\n")
    );
    assert_eq!(said.error(2), "error: table --check: 1 difference(s), a line each above");
    quote(knn);

    // The page by hand, then the numbers by hand, then the rule after the runs.
    let results = "experiments/image/results/hidden";
    change(&house, &format!("{results}.md"), "reproduced", "splendid");
    let said = check(&[]).out;
    let wanted = ": is not what the JSON gives; mend it by 'table hidden --rewrite'\n";
    assert!(said.starts_with(&format!("{results}.md:")) && said.ends_with(wanted), "{said}");
    done(&mut table(&house, &["hidden", "--rewrite"]));
    assert_eq!(check(&[]).code, Some(0));
    change(&house, "experiments/image/tables/hidden.yaml", "margin: -100", "margin: 100");
    let said = check(&[]);
    assert!(
        said.code == Some(2)
            && said.out.contains("hidden.json:")
            && said.out.contains("is not what its numbers and the table's file give"),
        "{}",
        said.out
    );
    done(&mut table(&house, &["--rewrite"]));
    assert_eq!(listed()["claims"]["hidden: pre-training helps"], "not-reproduced");
    // The README's quotation is now the one that is wrong.
    assert!(
        check(&[]).out.starts_with(
            "README.md:3: quotes 'reproduced' for hidden claim=pre-training helps, the results have 'not-reproduced'"
        ),
        "{}",
        check(&[]).out
    );
    fs::remove_file(&readme).expect("the file");
    change(&house, "experiments/image/tables/hidden.yaml", "name: 50 %, set", "name: 40 %, set");
    change(&house, "experiments/image/tables/hidden.yaml", "than: 50 %", "than: 40 %");
    change(&house, "experiments/image/tables/hidden.yaml", "[50 %, 75 %]", "[40 %, 75 %]");
    let said = check(&[]).out;
    assert!(said.contains(&format!("{results}.json: names the arm '50 %', which the table lacks\n")), "{said}");
    assert!(refused(&mut table(&house, &["--rewrite"])).contains("names the arm '50 %'"));
    fs::remove_file(house.path().join("experiments/image/tables/hidden.yaml")).expect("the file");
    assert!(check(&[]).out.contains(&format!("{results}.json: there is no table 'hidden'")));
}

/// What `list` says of the method.
fn listed(house: &TempDir) -> Value {
    let list = json(mask(["list", "--json"]).current_dir(house.path()));
    let mae = list.as_array().into_iter().flatten().find(|method| method["name"] == "mae");
    mae.expect("the method").clone()
}

#[test]
fn a_run_that_fails_stops_its_table_and_is_named() {
    // The grid needs an even number of patches, which only the run itself finds.
    let house = house(&TABLE.replace("set: [method.mask.ratio=0.5]", "set: ['method.mask={kind: grid}']"));
    let line = refused(&mut table(&house, &["hidden"]));
    assert!(
        line.starts_with("error: arm '50 %', seed 0: ")
            && line.contains("a cell of 2 tokens doesn't divide")
            && line.ends_with("runs/tables/hidden/mini/50/0/log.txt)"),
        "{line}"
    );
    assert!(!house.path().join("experiments/image/results").exists());
}

#[test]
fn mistakes_are_found_before_any_run() {
    for (from, to, wanted) in [
        (
            "method.mask.ratio=0.5",
            "method.mask.raito=0.5",
            "tables/hidden.yaml:15:5: arms.0: arm '50 %': method.mask has no key 'raito', did you mean 'ratio'?",
        ),
        ("steps: 30", "steps: 0", "arm '50 %': train.steps: 0 is too small"),
        ("mae.yaml", "mea.yaml", "scales.mini.recipe: experiments/image/mea.yaml is no file"),
        ("seeds: 2", "sedes: 2", "the table has no key 'sedes', did you mean 'seeds'?"),
        ("method: mae", "method: mea", "method: there is no 'mea', did you mean 'mae'?"),
    ] {
        let house = house(&TABLE.replacen(from, to, 1));
        for arguments in [&["hidden"][..], &["--check"]] {
            let line = refused(&mut table(&house, arguments));
            assert!(line.contains(wanted), "wanted {wanted}\nfound  {line}");
        }
        assert!(!house.path().join("runs").exists());
    }
    let house = house(TABLE);
    for (arguments, wanted) in [
        (&["hiden"][..], "error: table: there is no 'hiden' in experiments/image/tables. There are hidden"),
        (&[], "required arguments were not provided"),
        (&["hidden", "--seeds", "0"], "expected a number from 1 to 1000, or a range as 3..6"),
        (&["hidden", "--jobs", "0"], "0 is not in 1..=4096"),
        (&["hidden", "--scale", "huge"], "expected mini or paper"),
        (&["hidden", "--scale", "paper"], "scales: the table has no scale 'paper'"),
        (&["hidden", "--device", "gpu"], "--device: expected auto, cpu, cuda or cuda:N"),
        (&["hidden", "--check", "--seeds", "2"], "cannot be used with"),
    ] {
        let line = refused(&mut table(&house, arguments));
        assert!(line.contains(wanted), "wanted {wanted}\nfound  {line}");
    }
}

#[test]
fn a_metric_that_no_run_measures_is_told_early() {
    let wrong =
        TABLE.replacen("name: knn, percent", "name: linaer, percent", 1).replace("metric: knn", "metric: linaer");
    let house = house(&wrong.replace("steps: 30", "steps: 15"));
    let line = refused(&mut table(&house, &["hidden", "--seeds", "9", "--jobs", "1"]));
    assert!(
        line.contains("tables/hidden.yaml: no run measured 'linaer'; there are ") && line.contains("held_out, knn"),
        "{line}"
    );
    // The first seed of both arms told it.
    let runs = house.path().join("runs/tables/hidden/mini");
    assert!(!runs.join("50/3/result.json").exists());
    // One that an arm of another method lacks is shown where it is.
    let lacking = "recipe: ../simmim.yaml, set: ['evaluate=[{ kind: held_out, every: 15, samples: 16 }]'], paper";
    let other =
        TABLE.replace("name: 75 %, paper", &format!("name: 75 %, {lacking}")).replace(", predictor: { depth: 1 }", "");
    let house = self::house(&other.replace("steps: 30", "steps: 15"));
    done(&mut table(&house, &["hidden", "--seeds", "1"]));
    let page = fs::read_to_string(house.path().join("experiments/image/results/hidden.md")).expect("the page");
    assert!(page.contains("| 75 % | – | "), "{page}");
    assert!(page.contains("| hiding more is better | **untested** |"), "{page}");
}

/// Every key of the repository's own tables, misspelt; what stands below `changes` and `paper` is not the table's.
#[test]
fn every_misspelt_key_of_a_table_is_refused() {
    let folder = root().join("experiments/image/tables");
    let mut keys = 0;
    for name in names(&folder) {
        let file = folder.join(&name);
        let value = Tree::load(&file).expect("a table").root().clone();
        for key in misspellings(&value) {
            if key
                .path
                .iter()
                .any(|part| part == "changes" || part == "paper" && key.path.first().is_some_and(|p| p == "arms"))
            {
                continue;
            }
            let tree = Tree::from_value(key.put_in(&value), "code");
            let Err(error) = Table::of(&REGISTER, &file, tree) else {
                panic!("{name}: {} takes '{}'", key.path.join("."), key.wrong);
            };
            assert!(
                error.to_string().contains(&format!("has no key '{}', did you mean '{}'?", key.wrong, key.right)),
                "{name}: {error}"
            );
            keys += 1;
        }
    }
    assert!(keys >= 60, "{keys}");
}
