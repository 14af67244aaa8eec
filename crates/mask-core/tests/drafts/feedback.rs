//! The way back: what training measured steers the plans of later steps, a fixed number of steps old, whatever the loader
//! prepares ahead and wherever the run was stopped (C-RTS and PTW need that).

use std::path::Path;
use std::sync::{Arc, Mutex};

use mask_core::data::{Ask, Front, Item, WorkLimits};
use mask_core::method::Reduce;
use mask_core::nn::{Decoder, DecoderConfig, Parameters};
use mask_core::objective::squared_error;
use mask_core::sampler::{Claims, Site};
use mask_core::train::{BatchConfig, Checkpoints, TrainConfig, Trainer};
use mask_core::{
    Batch, Clock, Draft, Encoder, Grid, Layout, Method, Named, Outcome, Plan, Predictor, Result, Sampler, Step, Stream,
    Want,
};
use tch::{Device, Tensor};

use super::toy::{RAW, Tokens, Toy, WIDTH, stack};

const LAG: u64 = 3;
const STEPS: u64 = 14;

/// Hides as many positions as the state says.
struct Steered;

impl Sampler for Steered {
    fn draft(&self, site: &Site<'_>, sample: &mut Stream, _: &mut Stream) -> Result<Draft> {
        let level = site.state.get("level").map_or(0.0, |level| level[0]);
        let length = site.layout.len();
        let hidden = 1 + (level * 1000.0) as usize % (length - 2);
        Ok(Draft::Ready(Plan::keep_lowest(&sample.noise(length), length - hidden)))
    }

    fn claims(&self, layout: &Layout, _: &Clock) -> Result<Claims> {
        Ok(Claims { hidden: 1..=layout.len() - 1, every_position: true })
    }
}

/// A front that knows its lag and keeps what it was told.
struct Lagged {
    toy: Toy<Steered>,
    told: Mutex<Vec<(u64, Named<Vec<f32>>)>>,
}

impl Front for Lagged {
    fn len(&self) -> u64 {
        self.toy.len()
    }
    fn plan(&self, global: &[u64], ask: &Ask<'_>) -> Result<Vec<Item>> {
        self.told.lock().unwrap().push((ask.clock.step, ask.state.clone()));
        self.toy.plan(global, ask)
    }
    fn fill(&self, item: &mut Item, ask: &Ask<'_>) -> Result<()> {
        self.toy.fill(item, ask)
    }
    fn lag(&self) -> Option<u64> {
        Some(LAG)
    }
}

/// Feeds back its loss.
struct Told {
    encoder: Tokens,
    predictor: Decoder,
}

impl Method for Told {
    fn loss(&self, batch: &Batch, step: &Step<'_>) -> Result<Outcome> {
        let view = batch.only_view()?;
        let plan = view.plan()?;
        let seen = self.encoder.encode(view, Some(plan), &Want::last(), step)?;
        let answers = self.predictor.answer(&seen, plan, 0, step)?;
        let errors = squared_error(&answers, &plan.scored.take_flat(view.input("values")?))?;
        let mut outcome = Outcome::one("values", errors.sum(None), batch.totals.scored[0]);
        outcome.notes.push(("level", errors.sum(None) / batch.totals.scored[0], Reduce::Sum));
        Ok(outcome)
    }

    fn after_step(&mut self, notes: &Named<Tensor>, _: &Step<'_>) -> Result<Named<Tensor>> {
        Ok(Named::from([("level".to_owned(), notes["level"].view([1]))]))
    }

    fn encoder(&self) -> &dyn Encoder {
        &self.encoder
    }
}

/// Trains to `stop_at`, from the folder's last checkpoint where there is one.
fn train(folder: &Path, stop_at: u64, ahead: usize) -> Vec<(u64, Named<Vec<f32>>)> {
    let grid = Grid::plane(4, 4);
    let parameters = Parameters::new(Device::Cpu, 3);
    let root = parameters.root();
    let decoder = DecoderConfig::new(8, 1, 2);
    let method = Told {
        encoder: Tokens::new(&root.enter("encoder"), &grid, "values").unwrap(),
        predictor: Decoder::new(&root.enter("predictor"), &decoder, &stack(1), &grid, WIDTH, 0, RAW).unwrap(),
    };
    let toy = Toy { sampler: Steered, lengths: |_| 16, grid: Some(grid), fill: |plan, _| plan };
    let front = Arc::new(Lagged { toy, told: Mutex::default() });
    let config = TrainConfig { steps: STEPS, log_every: 1, checkpoint_every: 1000, ..TrainConfig::default() };
    let batch = BatchConfig { size: 4, ..BatchConfig::default() };
    let limits = WorkLimits { threads: 1, ahead };
    let mut trainer =
        Trainer::new(Box::new(method), parameters, folder, config, batch, 3, String::new(), limits).unwrap();
    let checkpoints = Checkpoints::of(folder);
    if !checkpoints.steps().unwrap().is_empty() {
        trainer.resume(&checkpoints.last().unwrap()).unwrap();
    }
    let shared: Arc<dyn Front> = Arc::<Lagged>::clone(&front);
    trainer.train(shared, Some(stop_at), &|_| false, &|_, _| Ok(Vec::new())).unwrap();
    let told = front.told.lock().unwrap();
    told.clone()
}

/// Steps, losses and shares hidden, as written.
fn metrics(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap()
}

#[test]
fn plans_know_what_was_fed_back_three_steps_ago() {
    let folder = tempfile::tempdir().unwrap();
    let told = train(folder.path(), STEPS, 2);
    let losses: Vec<f64> = metrics(folder.path())
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64())
        .collect();
    assert_eq!((told.len() as u64, losses.len() as u64), (STEPS, STEPS));
    for (step, state) in told {
        // The plans of step n know the state after step n - LAG, which the loss of step n - LAG - 1 (from 0) left.
        match step.checked_sub(LAG + 1) {
            None => assert!(state.is_empty(), "step {step} knows too much: {state:?}"),
            Some(of) => assert!((f64::from(state["level"][0]) - losses[of as usize]).abs() < 1e-6, "step {step}"),
        }
    }
}

#[test]
fn neither_prefetching_nor_a_stop_changes_them() {
    let folder = || tempfile::tempdir().unwrap();
    let (alone, eager, stopped) = (folder(), folder(), folder());
    let told = train(alone.path(), STEPS, 1);
    assert_eq!(told, train(eager.path(), STEPS, 5));
    assert_eq!(metrics(alone.path()), metrics(eager.path()));
    let mut parts = Vec::new();
    for stop_at in [1, 2, 7, 8, STEPS] {
        let part = train(stopped.path(), stop_at, 2);
        parts.extend(part.into_iter().filter(|(step, _)| *step < stop_at));
    }
    assert_eq!(told, parts);
    assert_eq!(metrics(alone.path()), metrics(stopped.path()));
}
