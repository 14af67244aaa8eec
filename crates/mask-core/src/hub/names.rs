//! One table a family between our parameter names and the Hub's, both ways.

use tch::{Kind, Tensor};

use crate::nn::Parameters;
use crate::{Error, Named, Result};

/// How one of our parameters stands in their file.
#[derive(Clone, Debug)]
struct Rule {
    ours: String,
    /// One name, or those of the equal parts that our packed parameter joins along its first dimension. A part without
    /// a name is all zeros in ours and not there in theirs.
    theirs: Vec<Option<String>>,
    /// Dimensions of size 1 that theirs has in front of and behind ours.
    ones: [usize; 2],
    /// Whether ours may keep its value where theirs is missing.
    optional: bool,
}

/// The table.
#[derive(Clone, Debug, Default)]
pub struct Names {
    rules: Vec<Rule>,
    ignored: Vec<Ignored>,
}

/// Names of theirs that need not be read.
#[derive(Clone, Debug)]
enum Ignored {
    Beginning(String),
    Ending(String),
}

/// What a load found.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Their names that were read.
    pub matched: usize,
    /// Names of theirs that an optional parameter of ours would have been read from.
    pub missing: Vec<String>,
    /// Their names that nothing here reads.
    pub unused: Vec<String>,
}

impl Names {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn rule(mut self, ours: &str, theirs: &[Option<&str>], ones: [usize; 2], optional: bool) -> Self {
        let theirs = theirs.iter().map(|name| name.map(str::to_owned)).collect();
        self.rules.push(Rule { ours: ours.to_owned(), theirs, ones, optional });
        self
    }

    /// The same numbers under another name.
    #[must_use]
    pub fn same(self, ours: &str, theirs: &str) -> Self {
        self.rule(ours, &[Some(theirs)], [0, 0], false)
    }

    /// The same numbers, which theirs keeps with dimensions of size 1 in front and behind.
    #[must_use]
    pub fn padded(self, ours: &str, theirs: &str, ones: [usize; 2]) -> Self {
        self.rule(ours, &[Some(theirs)], ones, false)
    }

    /// As [`Names::padded`], kept as it was made where theirs is missing.
    #[must_use]
    pub fn optional(self, ours: &str, theirs: &str, ones: [usize; 2]) -> Self {
        self.rule(ours, &[Some(theirs)], ones, true)
    }

    /// Ours packs query, key and value, in this order.
    #[must_use]
    pub fn packed(self, ours: &str, theirs: [&str; 3]) -> Self {
        self.rule(ours, &theirs.map(Some), [0, 0], false)
    }

    /// Ours packs query, key and value, of which theirs has no key: a key's bias can't change a softmax.
    #[must_use]
    pub fn packed_without_key(self, ours: &str, [query, value]: [&str; 2]) -> Self {
        self.rule(ours, &[Some(query), None, Some(value)], [0, 0], false)
    }

    /// Weight and bias of a map or norm.
    #[must_use]
    pub fn pair(self, ours: &str, theirs: &str) -> Self {
        self.same(&format!("{ours}.weight"), &format!("{theirs}.weight"))
            .same(&format!("{ours}.bias"), &format!("{theirs}.bias"))
    }

    /// Their names with this beginning need not be read.
    #[must_use]
    pub fn ignore(mut self, prefix: &str) -> Self {
        self.ignored.push(Ignored::Beginning(prefix.to_owned()));
        self
    }

    /// Their names with this end need not be read.
    #[must_use]
    pub fn ignore_ending(mut self, suffix: &str) -> Self {
        self.ignored.push(Ignored::Ending(suffix.to_owned()));
        self
    }

    fn ignores(&self, name: &str) -> bool {
        self.ignored.iter().any(|ignored| match ignored {
            Ignored::Beginning(prefix) => name.starts_with(prefix.as_str()),
            Ignored::Ending(suffix) => name.ends_with(suffix.as_str()),
        })
    }

    /// The rows of the table: our name, and theirs.
    pub fn rows(&self) -> impl Iterator<Item = (&str, Vec<&str>)> {
        self.rules.iter().map(|rule| (rule.ours.as_str(), rule.theirs.iter().flatten().map(String::as_str).collect()))
    }

    /// Fills our parameters from their weights.
    ///
    /// # Errors
    /// A weight that is missing or has another shape.
    pub fn load(&self, parameters: &Parameters, theirs: &Named<Tensor>) -> Result<Loaded> {
        let shapes: Named<Vec<i64>> =
            parameters.named().into_iter().map(|(name, tensor)| (name, tensor.size())).collect();
        let (mut ours, mut loaded) = (Named::new(), Loaded::default());
        let mut used = std::collections::BTreeSet::new();
        for rule in &self.rules {
            let Some(shape) = shapes.get(&rule.ours) else {
                return Err(Error::Defect(format!("the table names {}, which the model lacks", rule.ours)));
            };
            let gap = rule.theirs.iter().flatten().find(|name| !theirs.contains_key(*name));
            if let Some(gap) = gap {
                if rule.optional {
                    loaded.missing.push(gap.clone());
                    continue;
                }
                return Err(Error::value(gap, "is missing from the weights"));
            }
            let read = |name: &String| theirs.get(name).map(|part| part.to_kind(Kind::Float));
            let named: Vec<Tensor> = rule.theirs.iter().flatten().filter_map(read).collect();
            let zeros = named.first().map(Tensor::zeros_like);
            let mut named = named.into_iter();
            let part = |name: &Option<String>| match name {
                Some(_) => named.next(),
                None => zeros.as_ref().map(Tensor::shallow_clone),
            };
            let parts: Vec<Tensor> = rule.theirs.iter().filter_map(part).collect();
            let joined = if parts.len() == 1 { parts[0].shallow_clone() } else { Tensor::f_cat(&parts, 0)? };
            let found = joined.size();
            let mut wanted = vec![1; rule.ones[0]];
            wanted.extend(shape);
            wanted.extend(vec![1; rule.ones[1]]);
            let names: Vec<&str> = rule.theirs.iter().flatten().map(String::as_str).collect();
            if found != wanted {
                return Err(Error::shape(names.join(" + "), format!("{wanted:?} by the configuration"), &found));
            }
            used.extend(names);
            ours.insert(rule.ours.clone(), joined.f_reshape(shape)?);
        }
        loaded.matched = used.len();
        let known = |name: &String| used.contains(name.as_str()) || self.ignores(name);
        loaded.unused = theirs.keys().filter(|name| !known(name)).cloned().collect();
        parameters.load(&ours, false)?;
        Ok(loaded)
    }

    /// Our parameters under their names and shapes.
    ///
    /// # Errors
    /// The model lacks a parameter of the table.
    pub fn save(&self, parameters: &Parameters) -> Result<Named<Tensor>> {
        let ours: Named<Tensor> = parameters.named().into_iter().collect();
        let mut theirs = Named::new();
        for rule in &self.rules {
            let tensor = ours.get(&rule.ours);
            let tensor =
                tensor.ok_or_else(|| Error::Defect(format!("the table names {}, which the model lacks", rule.ours)))?;
            for (name, part) in rule.theirs.iter().zip(tensor.detach().chunk(rule.theirs.len() as i64, 0)) {
                let Some(name) = name else { continue };
                let mut shape = vec![1; rule.ones[0]];
                shape.extend(part.size());
                shape.extend(vec![1; rule.ones[1]]);
                theirs.insert(name.clone(), part.f_reshape(shape)?.f_contiguous()?);
            }
        }
        Ok(theirs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Init;
    use tch::Device;

    #[test]
    fn a_table_goes_both_ways() {
        let make = |seed| {
            let parameters = Parameters::new(Device::Cpu, seed);
            let _ = parameters.root().weight("qkv", &[6, 2], Init::Normal(1.0)).unwrap();
            let _ = parameters.root().weight("table", &[3, 2], Init::Normal(1.0)).unwrap();
            parameters
        };
        let names = Names::new().packed("qkv", ["q", "k", "v"]).padded("table", "t", [1, 0]).ignore("head.");
        let mut theirs = names.save(&make(1)).unwrap();
        assert_eq!((theirs["q"].size(), theirs["t"].size()), (vec![2, 2], vec![1, 3, 2]));
        theirs.insert("head.weight".to_owned(), Tensor::from(1.0));
        theirs.insert("stray".to_owned(), Tensor::from(1.0));
        let other = make(2);
        let loaded = names.load(&other, &theirs).unwrap();
        assert_eq!((loaded.matched, loaded.unused), (4, vec!["stray".to_owned()]));
        assert!(make(1).named().iter().zip(other.named()).all(|(a, b)| a.1 == b.1));
        theirs.remove("k");
        assert!(names.load(&other, &theirs).unwrap_err().to_string().contains('k'));
        // Where theirs has no key, ours is 0 there.
        let without = Names::new().packed_without_key("qkv", ["q", "v"]);
        without.load(&other, &theirs).unwrap();
        let key = other.named()[0].1.detach().slice(0, 2, 4, 1);
        assert_eq!(key, key.zeros_like());
        assert_eq!(without.save(&other).unwrap().keys().collect::<Vec<_>>(), ["q", "v"]);
        theirs.insert("k".to_owned(), Tensor::from(1.0));
        assert!(names.load(&other, &theirs).is_err());
    }
}
