//! Every key of every recipe, misspelt.

use mask_core::recipe::{Tree, misspellings};
use mask_core::run::{Overrides, Resolved};
use mask_image::REGISTER;

use crate::common::root;

#[test]
fn every_misspelt_key_is_refused_and_the_right_one_proposed() {
    let folder = root().join("experiments/image");
    let mut recipes: Vec<_> = std::fs::read_dir(&folder)
        .expect("the recipes")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    recipes.sort();
    let (mut resolved, mut keys) = (0, 0);
    for path in recipes {
        // What other recipes stand on names no method; its keys are those of the recipes above it.
        let recipe = match Resolved::read(&REGISTER, &path, &Overrides::default()) {
            Ok(recipe) => recipe,
            Err(error) if error.to_string().contains("lacks the key 'method'") => continue,
            Err(error) => panic!("{error}"),
        };
        resolved += 1;
        // Names of stages are the recipe's own.
        for key in misspellings(&recipe.value).into_iter().filter(|key| key.path != ["stages"]) {
            let tree = Tree::from_value(key.put_in(&recipe.value), "code");
            let owner = if key.path.is_empty() { "the recipe".to_owned() } else { key.path.join(".") };
            let Err(error) = Resolved::of(&REGISTER, tree, &Overrides::default()) else {
                panic!("{}: {owner} takes '{}'", path.display(), key.wrong);
            };
            let wanted = format!("code: {owner} has no key '{}', did you mean '{}'? It takes ", key.wrong, key.right);
            assert!(error.to_string().starts_with(&wanted), "{}\nwanted {wanted}\nfound  {error}", path.display());
            keys += 1;
        }
    }
    assert!(resolved >= 4 && keys >= 250, "{resolved} recipes, {keys} keys");
}
