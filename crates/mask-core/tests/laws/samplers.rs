//! Laws of mask samplers: claims kept, same stream same mask, any number of threads, an end on every grid.
//!
//! Every kind of `SamplerConfig::KINDS` is built from its defaults and from each change of one of its keys to a usual
//! value, found in the serialised defaults. A grid that a sampler can't work on has to be refused by an error.

use mask_core::recipe::{Mapping, Value};
use mask_core::sampler::{Claims, Moment, Row, Sampler, SamplerConfig, Site, draw};
use mask_core::{Clock, Draft, Grid, Hints, Layout, Named, Plan, Purpose, Result, Stream};
use proptest::prelude::*;
use tch::{Kind, Tensor};

const CLOCK: Clock = Clock { step: 3, steps: 10, epoch: 1, steps_in_epoch: 2 };

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap()
}

/// Values that a key of some name or type may have besides its default.
fn others(key: &str, default: &Value) -> Vec<Value> {
    let list = |texts: &[&str]| texts.iter().map(|text| yaml(text)).collect();
    match (key, default) {
        ("kind", _) => Vec::new(),
        ("ratio", _) => list(&[
            "0",
            "0.1",
            "0.5",
            "0.9",
            "1",
            "{kind: count, hidden: 0}",
            "{kind: count, hidden: 5}",
            "{kind: count, hidden: 1000000}",
            "{kind: ramp, from: 0.1, to: 0.9}",
            "{kind: uniform, low: 0, high: 1}",
            "{kind: uniform, low: 0.2, high: 0.6, per: step}",
        ]),
        ("rounding", _) => list(&["keep_floor", "hide_floor", "hide_ceil", "hide_round", "hide_stochastic"]),
        (_, Value::Bool(flag)) => vec![Value::Bool(!flag)],
        (_, Value::Number(number)) if number.is_u64() => list(&["1", "2", "3", "7"]),
        (_, Value::Number(_)) => list(&["0.1", "0.5", "1.0"]),
        _ => Vec::new(),
    }
}

/// A kind with its defaults, and each of its keys changed alone, and with each share.
fn configs() -> Vec<(String, SamplerConfig)> {
    let mut all = Vec::new();
    for (kind, _) in SamplerConfig::KINDS {
        let default: SamplerConfig = serde_yaml::from_value(yaml(&format!("{{kind: {kind}}}"))).unwrap();
        assert_eq!(default.kind(), *kind);
        let Value::Mapping(keys) = serde_yaml::to_value(&default).unwrap() else { panic!("{kind} is no mapping") };
        let changes: Vec<(&str, Value)> = keys
            .iter()
            .filter_map(|(key, value)| Some((key.as_str()?, value)))
            .flat_map(|(key, value)| others(key, value).into_iter().map(move |other| (key, other)))
            .collect();
        let mut made: Vec<Mapping> = vec![keys.clone()];
        let mut with = |changes: &[&(&str, Value)]| {
            let mut keys = keys.clone();
            changes.iter().for_each(|(key, value)| drop(keys.insert((*key).into(), value.clone())));
            made.push(keys);
        };
        changes.iter().for_each(|change| with(&[change]));
        for share in changes.iter().filter(|(key, _)| *key == "ratio") {
            changes.iter().filter(|(key, _)| *key != "ratio").for_each(|other| with(&[share, other]));
        }
        for keys in made {
            let text = serde_yaml::to_string(&keys).unwrap().replace('\n', ", ");
            match serde_yaml::from_value(Value::Mapping(keys)) {
                Ok(config) => all.push((text, config)),
                Err(error) => panic!("{text}: {error}"),
            }
        }
    }
    all
}

/// The samplers that a number out of range didn't stop; each kind has at least its default.
fn samplers() -> Vec<(String, Box<dyn Sampler>)> {
    let built: Vec<_> = configs()
        .into_iter()
        .filter_map(|(text, config)| match config.build() {
            Ok(sampler) => Some((text, sampler)),
            Err(error) => {
                assert_eq!(error.exit_code(), 2, "{text}: {error}");
                None
            }
        })
        .collect();
    for (kind, _) in SamplerConfig::KINDS {
        assert!(built.iter().any(|(text, _)| text.contains(kind)), "{kind} can't be built");
    }
    built
}

fn layouts() -> Vec<Layout> {
    let grid = |dims: &[usize]| Layout::single(Grid::new(dims).unwrap());
    let mut all: Vec<Layout> = [
        &[1, 1][..],
        &[1, 9],
        &[9, 1],
        &[2, 2],
        &[3, 17],
        &[4, 8],
        &[14, 14],
        &[1],
        &[2],
        &[23],
        &[2, 3, 4],
        &[4, 2, 2],
    ]
    .iter()
    .map(|dims| grid(dims))
    .collect();
    all.push(grid(&[4, 4]).with_fixed(vec![0, 5, 15]).unwrap());
    all.push(grid(&[12]).with_fixed(vec![0, 11]).unwrap());
    all.push(grid(&[3]).with_fixed(vec![0, 1, 2]).unwrap());
    let two = vec![("a".to_owned(), Grid::plane(2, 4)), ("b".to_owned(), Grid::line(5))];
    all.push(Layout::several(two).unwrap());
    all
}

/// Side information of every sort, different in each sample.
fn hints(layout: &Layout, id: u64) -> Hints {
    let mut stream = Stream::keyed(99, Purpose::Sample, 0, id);
    let length = layout.len() as u32;
    let scores = stream.noise(length as usize);
    let pairs = stream.noise(length as usize - 1);
    let (mut units, mut first) = (Vec::new(), 0);
    while first < length {
        let end = (first + 1 + stream.below(4) as u32).min(length);
        units.push(first..end);
        first = end;
    }
    Hints { scores: Some(scores), pairs: Some(pairs), units: Some(units) }
}

fn rows(layout: &Layout, ids: impl IntoIterator<Item = u64>) -> Vec<Row> {
    ids.into_iter().map(|id| Row { id, layout: layout.clone(), hints: hints(layout, id) }).collect()
}

fn drafts(sampler: &dyn Sampler, rows: &[Row], seed: u64) -> Result<Vec<Draft>> {
    let state = Named::new();
    draw(sampler, rows, 0, &Moment { seed, clock: &CLOCK, state: &state })
}

/// The masks of drafts; open ones are settled by scores, as a model would.
fn masks(sampler: &dyn Sampler, layout: &Layout, drafts: &[Draft]) -> Vec<Vec<bool>> {
    let length = layout.len();
    drafts
        .iter()
        .map(|draft| match draft {
            Draft::Ready(plan) => {
                plan.check(layout).unwrap();
                sound(plan, layout);
                plan.mask(length)
            }
            Draft::Open { noise, counts } => {
                let noise = Tensor::from_slice(noise).view([1, length as i64]);
                let plan =
                    sampler.select(&noise, std::slice::from_ref(counts), &noise.cumsum(1, Kind::Float).frac()).unwrap();
                let mask: Vec<i64> = Vec::try_from(plan.hidden.view([-1]).to_kind(Kind::Int64)).unwrap();
                mask.iter().map(|hidden| *hidden == 1).collect()
            }
        })
        .collect()
}

/// What [`Plan::check`] doesn't ask: no position twice, none that may not be hidden, and none both seen and hidden.
fn sound(plan: &Plan, layout: &Layout) {
    let distinct = |set: &[u32]| set.iter().collect::<std::collections::BTreeSet<_>>().len() == set.len();
    assert!(distinct(&plan.hidden) && distinct(&plan.seen), "a position stands twice");
    assert!(plan.hidden.iter().all(|position| layout.fixed().binary_search(position).is_err()), "fixed, yet hidden");
    let mask = plan.mask(layout.len());
    let seen = plan.seen.iter().filter(|position| mask[**position as usize]).count();
    let shown = plan.fill.iter().filter(|fill| **fill != mask_core::Fill::Drop).count();
    assert_eq!(seen, shown, "what is dropped is not read, what is filled is");
    assert!(plan.units.iter().all(|unit| unit.start < unit.end && unit.end as usize <= layout.len()));
}

/// The claims; an error has to be one that a user can act on, and the draft has to refuse, too.
fn claims(text: &str, sampler: &dyn Sampler, layout: &Layout) -> Option<Claims> {
    let drawn = drafts(sampler, &rows(layout, [1]), 0);
    match (sampler.claims(layout, &CLOCK), drawn) {
        (Ok(claims), Ok(_)) => Some(claims),
        (Err(a), Err(b)) => {
            assert!(a.exit_code() == 2 && b.exit_code() == 2, "{text}on {layout:?}: {a}; {b}");
            None
        }
        (Ok(_), Err(error)) => panic!("{text}claims something of {layout:?}, yet refuses it: {error}"),
        (Err(error), Ok(_)) => panic!("{text}draws on {layout:?}, yet claims nothing: {error}"),
    }
}

#[test]
fn claims_are_kept() {
    for (text, sampler) in samplers() {
        for layout in layouts() {
            let Some(claims) = claims(&text, &*sampler, &layout) else { continue };
            let free = layout.free();
            assert!(*claims.hidden.end() <= free.len(), "{text}claims {claims:?} of {} positions", free.len());
            let mut met = [vec![false; layout.len()], vec![false; layout.len()]];
            // In several batches, so that positions of low probability are met, too.
            for batch in 0..100 {
                let drafts = drafts(&*sampler, &rows(&layout, batch * 50..(batch + 1) * 50), batch).unwrap();
                for mask in masks(&*sampler, &layout, &drafts) {
                    let hidden = mask.iter().filter(|hidden| **hidden).count();
                    assert!(claims.hidden.contains(&hidden), "{text}{hidden} hidden of {layout:?}, not {claims:?}");
                    mask.iter().enumerate().for_each(|(at, hidden)| met[usize::from(*hidden)][at] = true);
                }
                let all = free.iter().all(|at| met[0][*at as usize] && met[1][*at as usize]);
                if batch >= 3 && (all || !claims.every_position) {
                    break;
                }
            }
            if claims.every_position {
                for (side, word) in [(0, "visible"), (1, "hidden")] {
                    let never = free.iter().find(|at| !met[side][**at as usize]);
                    assert!(never.is_none(), "{text}position {never:?} of {layout:?} is never {word}");
                }
            }
        }
    }
}

#[test]
fn the_same_stream_gives_the_same_mask() {
    for (text, sampler) in samplers() {
        for layout in layouts() {
            if claims(&text, &*sampler, &layout).is_none() {
                continue;
            }
            let state = Named::new();
            let hints = hints(&layout, 0);
            let site = Site { layout: &layout, hints: &hints, row: 0, rows: 1, clock: &CLOCK, state: &state };
            let draft = |a: u64, b: u64| sampler.draft(&site, &mut Stream::new(a), &mut Stream::new(b)).unwrap();
            assert_eq!(draft(1, 2), draft(1, 2), "{text}on {layout:?}");
        }
    }
}

/// A sampler without its rule over the batch.
struct Unsettled<'a>(&'a dyn Sampler);

impl Sampler for Unsettled<'_> {
    fn draft(&self, site: &Site<'_>, sample: &mut Stream, step: &mut Stream) -> Result<Draft> {
        self.0.draft(site, sample, step)
    }

    fn claims(&self, layout: &Layout, clock: &Clock) -> Result<Claims> {
        self.0.claims(layout, clock)
    }
}

#[test]
fn threads_and_batch_mates_change_nothing() {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let (one, four) = (pool(1), pool(4));
    for (text, sampler) in samplers() {
        for layout in layouts() {
            if claims(&text, &*sampler, &layout).is_none() {
                continue;
            }
            let all = rows(&layout, 0..33);
            let alone = one.install(|| drafts(&*sampler, &all, 7)).unwrap();
            let together = four.install(|| drafts(&*sampler, &all, 7)).unwrap();
            assert_eq!(alone, together, "{text}on {layout:?}: threads");
            // A rule over the batch may hang on it, the drafts before it may not.
            let free = Unsettled(&*sampler);
            let whole = drafts(&free, &all, 7).unwrap();
            let some = drafts(&free, &rows(&layout, [20, 3, 8]), 7).unwrap();
            assert_eq!(some, [20, 3, 8].map(|at: usize| whole[at].clone()), "{text}on {layout:?}: the batch");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    /// On any grid at any share every sampler either draws what it claims or refuses: no panic, no endless loop.
    #[test]
    fn any_grid_and_share_come_to_an_end(
        dims in prop_oneof![
            prop::collection::vec(1usize..20, 1..3),
            prop::collection::vec(1usize..6, 3),
        ],
        share in prop_oneof![Just(0.0), Just(1.0), 0.0f64..=1.0],
        seed: u64,
    ) {
        let layout = Layout::single(Grid::new(&dims).unwrap());
        for (kind, _) in SamplerConfig::KINDS {
            let default: SamplerConfig = serde_yaml::from_value(yaml(&format!("{{kind: {kind}}}"))).unwrap();
            let mut value = serde_yaml::to_value(&default).unwrap();
            if let Some(ratio) = value.get_mut("ratio") {
                *ratio = share.into();
            }
            let config: SamplerConfig = serde_yaml::from_value(value).unwrap();
            let sampler = config.build().unwrap();
            let Some(claims) = claims(&format!("{kind} at {share} "), &*sampler, &layout) else { continue };
            let drafts = drafts(&*sampler, &rows(&layout, 0..4), seed).unwrap();
            for mask in masks(&*sampler, &layout, &drafts) {
                let hidden = mask.iter().filter(|hidden| **hidden).count();
                prop_assert!(claims.hidden.contains(&hidden), "{} at {}: {} of {:?}", kind, share, hidden, claims);
            }
        }
    }
}
