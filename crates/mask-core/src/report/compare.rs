//! In what two recipes differ.

use std::collections::BTreeMap;

use serde_yaml::Value;

/// A key and its values in the first and the second recipe, `None` where a recipe hasn't got it.
pub(super) type Difference = (String, Option<String>, Option<String>);

/// The keys in which two resolved recipes differ: in the order of the first, then those that only the second has.
/// `None` when one of them is no YAML.
pub(super) fn differences(first: &str, second: &str) -> Option<Vec<Difference>> {
    let [first, second] = [leaves(first)?, leaves(second)?];
    let find = |leaves: &[(String, String)]| leaves.iter().cloned().collect::<BTreeMap<_, _>>();
    let [in_first, in_second] = [find(&first), find(&second)];
    let changed = first.into_iter().filter_map(|(key, value)| {
        let other = in_second.get(&key).cloned();
        (other.as_ref() != Some(&value)).then_some((key, Some(value), other))
    });
    let added = second.into_iter().filter(|(key, _)| !in_first.contains_key(key));
    Some(changed.chain(added.map(|(key, value)| (key, None, Some(value)))).collect())
}

/// Every leaf with its dotted key; lists of plain values are one leaf.
fn leaves(recipe: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    if !recipe.trim().is_empty() {
        collect("", &serde_yaml::from_str(recipe).ok()?, &mut found);
    }
    Some(found)
}

fn collect(key: &str, value: &Value, found: &mut Vec<(String, String)>) {
    let below = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    match value {
        Value::Mapping(entries) if !entries.is_empty() => {
            for (name, value) in entries {
                collect(&below(&plain(name)), value, found);
            }
        }
        Value::Sequence(items) if items.iter().any(|item| item.is_mapping() || item.is_sequence()) => {
            for (index, item) in items.iter().enumerate() {
                collect(&below(&index.to_string()), item, found);
            }
        }
        Value::Sequence(items) => {
            found.push((key.to_owned(), format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(", "))));
        }
        other => found.push((key.to_owned(), plain(other))),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Mapping(_) => "{}".to_owned(),
        other => serde_yaml::to_string(other).map(|text| text.trim_end().to_owned()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_dotted_and_in_order() {
        let first = "seed: 0\ntrain: {steps: 10, clip: 1.0, rates: [1, 2]}\nviews: [{size: 28}, {size: 14}]\nempty: {}";
        let second = "seed: 0\ntrain: {steps: 20, rates: [1, 3]}\nviews: [{size: 28}, {size: 7}]\nempty: {}\nnew: ~";
        let text = |value: &str| Some(value.to_owned());
        let want = [
            ("train.steps", text("10"), text("20")),
            ("train.clip", text("1.0"), None),
            ("train.rates", text("[1, 2]"), text("[1, 3]")),
            ("views.1.size", text("14"), text("7")),
            ("new", None, text("null")),
        ];
        let found = differences(first, second).unwrap();
        assert_eq!(found, want.map(|(key, a, b)| (key.to_owned(), a, b)));
        assert_eq!(differences(first, first), Some(vec![]));
    }

    #[test]
    fn what_is_no_yaml_is_not_compared() {
        assert_eq!(differences("a: [", "a: 1"), None);
        assert_eq!(differences("", " \n"), Some(vec![]));
    }
}
