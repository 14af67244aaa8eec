//! MAE drops, SimMIM puts mask tokens: the same encoder, target and loop.

use mask_core::nn::{Decoder, DecoderConfig, InitRule, LinearHead, Parameters};
use mask_core::objective::{absolute_error, squared_error};
use mask_core::sampler::{Ratio, Rounding, UniformConfig};
use mask_core::{Batch, Encoder, Fill, Grid, Method, Outcome, Predictor, Result, Step, Want};
use tch::Device;

use super::toy::{RAW, Tokens, Toy, WIDTH, keeps_secrets, learns, stack};

struct Mae {
    encoder: Tokens,
    predictor: Decoder,
}

impl Method for Mae {
    fn loss(&self, batch: &Batch, step: &Step<'_>) -> Result<Outcome> {
        let view = batch.only_view()?;
        let plan = view.plan()?;
        let seen = self.encoder.encode(view, Some(plan), &Want::last(), step)?; // [B, K, D]
        let answers = self.predictor.answer(&seen, plan, 0, step)?; // [N, P]
        let targets = plan.scored.take_flat(view.input("values")?); // [N, P]
        let errors = squared_error(&answers, &targets)?; // [N]
        Ok(Outcome::one("values", errors.sum(None), batch.totals.scored[0]).with(answers, targets))
    }

    fn encoder(&self) -> &dyn Encoder {
        &self.encoder
    }
}

#[test]
fn mae() {
    let grid = Grid::plane(4, 4);
    let front = Toy {
        sampler: UniformConfig::default().build().unwrap(),
        lengths: |_| 16,
        grid: Some(grid.clone()),
        fill: |plan, _| plan,
    };
    let parameters = Parameters::new(Device::Cpu, 1);
    let root = parameters.root();
    let decoder = DecoderConfig::new(8, 1, 2);
    let mut method = Mae {
        encoder: Tokens::new(&root.enter("encoder"), &grid, "values").unwrap(),
        predictor: Decoder::new(&root.enter("predictor"), &decoder, &stack(1), &grid, WIDTH, 0, RAW).unwrap(),
    };
    let outcome = learns(&mut method, &parameters, &front).unwrap();
    assert_eq!(outcome.answers.unwrap().size(), [6 * 12, RAW]); // int(16 * 0.25) = 4 of 16 are kept
    keeps_secrets(&method, &front, "values");
}

struct Simmim {
    encoder: Tokens,
    predictor: LinearHead,
}

impl Method for Simmim {
    fn loss(&self, batch: &Batch, step: &Step<'_>) -> Result<Outcome> {
        let view = batch.only_view()?;
        let plan = view.plan()?;
        let read = self.encoder.encode(view, Some(plan), &Want::last(), step)?; // [B, L, D]
        let answers = self.predictor.answer(&read, plan, 0, step)?; // [N, P]
        let targets = plan.scored.take_flat(view.input("values")?); // [N, P]
        let errors = absolute_error(&answers, &targets)?; // [N]
        Ok(Outcome::one("values", errors.sum(None), batch.totals.scored[0]).with(answers, targets))
    }

    fn encoder(&self) -> &dyn Encoder {
        &self.encoder
    }
}

#[test]
fn simmim() {
    let grid = Grid::plane(4, 4);
    let mask = UniformConfig { ratio: Ratio::Fixed(0.6), rounding: Rounding::HideCeil, cell: 2 };
    let front = Toy {
        sampler: mask.build().unwrap(),
        lengths: |_| 16,
        grid: Some(grid.clone()),
        fill: |plan, _| plan.filled(|_| Fill::MaskToken),
    };
    let parameters = Parameters::new(Device::Cpu, 1);
    let root = parameters.root();
    let mut method = Simmim {
        encoder: Tokens::new(&root.enter("encoder"), &grid, "values").unwrap(),
        predictor: LinearHead::new(&root.enter("predictor"), WIDTH, RAW, InitRule::Xavier).unwrap(),
    };
    let outcome = learns(&mut method, &parameters, &front).unwrap();
    assert_eq!(outcome.answers.unwrap().size(), [6 * 12, RAW]); // ceil(4 * 0.6) = 3 of 4 cells
    keeps_secrets(&method, &front, "values");
}
