//! Weights of one model put into another.

use std::collections::BTreeSet;

use tch::Tensor;

use super::position::{interpolate, sin_cos};
use super::scope::{Parameter, Parameters};
use crate::{Error, Named, Result};

/// What was put where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transferred {
    /// Parameters that were filled.
    pub matched: usize,
    /// Parameters that stayed as they were made, since the other model lacks them.
    pub missing: Vec<String>,
    /// Parameters outside the encoder that stayed as they were made, since theirs have another shape.
    pub other_shape: Vec<String>,
    /// Position tables that were interpolated, with both grids.
    pub fitted: Vec<String>,
    /// Sine tables of another grid that are computed anew.
    pub computed: Vec<String>,
    /// Parameters of the other model that have no place here.
    pub unused: Vec<String>,
}

impl std::fmt::Display for Transferred {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} matched", self.matched)?;
        let lists = [
            ("missing, fresh", &self.missing),
            ("of another shape, fresh", &self.other_shape),
            ("position tables interpolated", &self.fitted),
            ("sine tables computed anew", &self.computed),
            ("unused", &self.unused),
        ];
        for (title, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
            let rest = if list.len() > 6 { format!(" and {} more", list.len() - 6) } else { String::new() };
            write!(f, "; {} {title}: {}{rest}", list.len(), list[..list.len().min(6)].join(", "))?;
        }
        Ok(())
    }
}

/// A parameter as [`Parameters::each`] shows it, without its values.
struct Known {
    tensor: Tensor,
    trained: bool,
    teacher: bool,
    grid: Option<(crate::Grid, i64)>,
}

impl Known {
    fn of(parameter: &Parameter) -> (String, Self) {
        let Parameter { name, tensor, trained, teacher, grid, .. } = parameter;
        (name.clone(), Self { tensor: tensor.detach(), trained: *trained, teacher: *teacher, grid: grid.clone() })
    }

    /// Whether this is a sine table of its grid, and not a trained one.
    fn is_sin_cos(&self) -> bool {
        let Some((grid, prefix)) = &self.grid else { return false };
        let size = self.tensor.size();
        let Ok(table) = sin_cos(grid, size[1]) else { return false };
        let rows = self.tensor.narrow(0, *prefix, grid.len() as i64).to_device(tch::Device::Cpu);
        rows.allclose(&table, 1e-4, 1e-4, false)
    }
}

/// The name of a table that all blocks share, from which a table of one block's own starts (BEiT's fine-tuning):
/// `encoder.relative.table` for `encoder.block.3.relative.table`.
fn shared_by_blocks(name: &str) -> Option<String> {
    let (before, block) = name.split_once(".block.")?;
    let (_, rest) = block.split_once('.')?;
    rest.starts_with("relative.").then(|| format!("{before}.{rest}"))
}

/// Fills `into` from `from` by name, tables of blocks from a shared one. Position tables of another grid are
/// interpolated. With `strict` every parameter must be filled.
///
/// # Errors
/// Nothing of the encoder is there, a parameter of the encoder has another shape, or, with `strict`, one is missing.
pub fn transfer(from: &Parameters, into: &Parameters, strict: bool) -> Result<Transferred> {
    let list = |parameters: &Parameters| {
        let mut list = Vec::new();
        parameters.each(|parameter| list.push(Known::of(parameter)));
        list
    };
    let theirs: Named<Known> = list(from).into_iter().collect();
    let (mut done, mut used, mut encoder) = (Transferred::default(), BTreeSet::new(), false);
    let mut writes = Vec::new();
    for (name, mine) in list(into) {
        let shared = || shared_by_blocks(&name).and_then(|shared| theirs.get_key_value(&shared));
        let Some((source, their)) = theirs.get_key_value(&name).or_else(shared) else {
            // A teacher begins as a copy of what is filled here.
            if !mine.teacher {
                done.missing.push(name);
            }
            continue;
        };
        used.insert(source.clone());
        let (wanted, found) = (mine.tensor.size(), their.tensor.size());
        let of_encoder = name.starts_with("encoder.");
        if wanted == found {
            writes.push((mine.tensor, their.tensor.shallow_clone()));
            done.matched += 1;
            encoder |= of_encoder;
            continue;
        }
        match (&mine.grid, &their.grid) {
            (Some((to, prefix)), Some((grid, front))) if prefix == front && wanted[1] == found[1] => {
                let line = format!("{name} ({:?} -> {:?})", grid.dims(), to.dims());
                if !mine.trained && their.is_sin_cos() {
                    done.computed.push(line);
                } else {
                    let cpu = their.tensor.to_device(tch::Device::Cpu);
                    let planes = [grid, to].map(|grid| grid.as_plane().map(|sides| sides.map(|side| side as i64)));
                    let [from, to] = planes;
                    writes.push((mine.tensor, interpolate(&cpu, *prefix, from?, to?)?));
                    done.fitted.push(line);
                    done.matched += 1;
                }
            }
            _ if of_encoder || strict => {
                return Err(Error::value(name, format!("has shape {found:?} there, the recipe asks for {wanted:?}")));
            }
            _ => done.other_shape.push(name),
        }
    }
    if strict && let Some(first) = done.missing.first() {
        let more = done.missing.len();
        return Err(Error::value(first, format!("is missing there, one of {more} parameters; strict asks for all")));
    }
    if !encoder {
        let first = theirs.keys().next().map_or("nothing", String::as_str);
        return Err(Error::value("encoder", format!("nothing of it is there; the names there begin with {first}")));
    }
    done.unused = theirs.into_keys().filter(|name| !used.contains(name)).collect();
    // All or nothing: a refused transfer has changed no weight.
    for (mut mine, value) in writes {
        mine.f_copy_(&value)?;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tch::{Device, Kind};

    use super::*;
    use crate::Grid;
    use crate::nn::{Init, InitRule, PositionTable};

    fn model(seed: u64, grid: &Grid, table: PositionTable, width: i64, head: i64) -> Rc<Parameters> {
        let parameters = Parameters::new(Device::Cpu, seed);
        let at = parameters.root().enter("encoder");
        let _ = at.weight("w", &[width, width], Init::Normal(1.0)).unwrap();
        let _ = table.build(&at, grid, width, 1, InitRule::Normal, false).unwrap();
        let _ = parameters.root().enter("predictor").weight("w", &[head], Init::Normal(1.0)).unwrap();
        parameters
    }

    fn value(parameters: &Parameters, name: &str) -> Tensor {
        parameters.named().into_iter().find(|(own, _)| own == name).unwrap().1.detach().copy()
    }

    #[test]
    fn what_fits_is_taken_by_name() {
        let (small, large) = (Grid::plane(2, 2), Grid::plane(4, 6));
        let (from, into) =
            (model(1, &small, PositionTable::Learned, 8, 3), model(2, &large, PositionTable::Learned, 8, 5));
        let fresh = value(&into, "predictor.w");
        let done = transfer(&from, &into, false).unwrap();
        assert_eq!((done.matched, done.missing.len(), done.unused.len()), (2, 0, 0));
        assert_eq!(done.other_shape, ["predictor.w"]);
        assert_eq!(done.fitted, ["encoder.positions ([2, 2] -> [4, 6])"]);
        assert_eq!(value(&into, "encoder.w"), value(&from, "encoder.w"));
        assert_eq!(value(&into, "predictor.w"), fresh);
        let (old, new) = (value(&from, "encoder.positions"), value(&into, "encoder.positions"));
        assert_eq!(new.get(0), old.get(0));
        let line = done.to_string();
        assert!(line.starts_with("2 matched; 1 of another shape, fresh: predictor.w; 1 position tables"), "{line}");
    }

    #[test]
    fn blocks_start_from_a_shared_table() {
        let model = |names: &[&str]| {
            let parameters = Parameters::new(Device::Cpu, names.len() as u64);
            for name in names {
                let _ = parameters.root().enter(name).weight("table", &[3, 2], Init::Normal(1.0)).unwrap();
            }
            parameters
        };
        let from = model(&["encoder.relative"]);
        let into = model(&["encoder.block.0.relative", "encoder.block.11.relative", "encoder.block.0.other"]);
        let done = transfer(&from, &into, false).unwrap();
        assert_eq!((done.matched, done.unused.len()), (2, 0));
        assert_eq!(done.missing, ["encoder.block.0.other.table"]);
        for block in [0, 11] {
            assert_eq!(
                value(&into, &format!("encoder.block.{block}.relative.table")),
                value(&from, "encoder.relative.table")
            );
        }
    }

    #[test]
    fn sine_tables_are_computed_anew() {
        let (small, large) = (Grid::plane(2, 2), Grid::plane(3, 3));
        let from = model(1, &small, PositionTable::SinCos, 8, 3);
        let into = model(2, &large, PositionTable::SinCos, 8, 3);
        let before = value(&into, "encoder.positions");
        let done = transfer(&from, &into, true).unwrap();
        assert_eq!((done.computed.len(), done.fitted.len()), (1, 0));
        assert_eq!(value(&into, "encoder.positions"), before);
        // A trained table isn't, even where ours stays frozen.
        let from = model(1, &small, PositionTable::Learned, 8, 3);
        assert_eq!(transfer(&from, &into, true).unwrap().fitted.len(), 1);
        assert_ne!(value(&into, "encoder.positions"), before);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let grid = Grid::plane(2, 2);
        let into = model(2, &grid, PositionTable::Learned, 8, 3);
        let before = value(&into, "encoder.w");
        let refused = |from: &Parameters, strict| transfer(from, &into, strict).unwrap_err().to_string();
        let wide = model(1, &grid, PositionTable::Learned, 16, 3);
        assert!(refused(&wide, false).contains("encoder.w: has shape [16, 16] there, the recipe asks for [8, 8]"));
        let headless = Parameters::new(Device::Cpu, 1);
        let _ = headless.root().enter("encoder").weight("w", &[8, 8], Init::ONES).unwrap();
        assert!(refused(&headless, true).contains("is missing there"));
        let other = Parameters::new(Device::Cpu, 1);
        let _ = other.root().weight("x", &[1], Init::ONES).unwrap();
        assert!(refused(&other, false).contains("begin with x"));
        assert_eq!(value(&into, "encoder.w"), before);
        assert_eq!(transfer(&headless, &into, false).unwrap().missing.len(), 2);
        assert_eq!(value(&into, "encoder.w"), Tensor::ones([8, 8], (Kind::Float, Device::Cpu)));
    }
}
