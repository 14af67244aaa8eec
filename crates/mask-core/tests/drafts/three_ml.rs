//! 3ML: half of the tokens are selected; of those 80 % leave the sequence, 10 % are replaced, 10 % stay. All count.

use mask_core::nn::{Decoder, DecoderConfig, Parameters};
use mask_core::objective::cross_entropy;
use mask_core::sampler::{Ratio, Rounding, UniformConfig};
use mask_core::{Batch, Clock, Encoder, Fill, Grid, Method, Outcome, Predictor, Result, Step, Want};
use tch::Device;

use super::toy::{IDS, Tokens, Toy, WIDTH, batch, keeps_secrets, learns, stack};

struct ThreeMl {
    encoder: Tokens,
    /// Late layers over all places, a mask vector at those that were dropped.
    predictor: Decoder,
}

impl Method for ThreeMl {
    fn loss(&self, batch: &Batch, step: &Step<'_>) -> Result<Outcome> {
        let view = batch.only_view()?;
        let plan = view.plan()?;
        let early = self.encoder.encode(view, Some(plan), &Want::last(), step)?; // [B, K, D], ragged
        let late = self.predictor.answer(&early, plan, 0, step)?; // [N selected, D]
        let logits = self.encoder.logits(&late); // [N, V]
        let ids = plan.scored.take_flat(&view.input("ids")?.unsqueeze(2)).view([-1]); // [N]
        let losses = cross_entropy(&logits, &ids, 0.0)?;
        Ok(Outcome::one("ids", losses.sum(None), batch.totals.scored[0]).with(logits, ids))
    }

    fn encoder(&self) -> &dyn Encoder {
        &self.encoder
    }
}

#[test]
fn three_ml() {
    let grid = Grid::line(16);
    let mask = UniformConfig { ratio: Ratio::Fixed(0.5), rounding: Rounding::HideStochastic, cell: 1 };
    let front = Toy {
        sampler: mask.build().unwrap(),
        lengths: |_| 16,
        grid: Some(grid.clone()),
        fill: |plan, stream| {
            plan.filled(|_| match stream.uniform() {
                u if u < 0.8 => Fill::Drop,
                u if u < 0.9 => Fill::Value(stream.below(IDS as u64) as i64),
                _ => Fill::Keep,
            })
        },
    };
    let parameters = Parameters::new(Device::Cpu, 1);
    let root = parameters.root();
    let decoder = DecoderConfig::new(16, 1, 2);
    let mut method = ThreeMl {
        encoder: Tokens::new(&root.enter("encoder"), &grid, "ids").unwrap(),
        predictor: Decoder::new(&root.enter("predictor"), &decoder, &stack(1), &grid, WIDTH, 0, WIDTH).unwrap(),
    };
    let clock = Clock::at(0, 100, 4);
    let drawn = batch(&front, 6, &clock);
    let plan = drawn.views[0].plan().unwrap();
    assert!(plan.seen.valid.is_some() && plan.values.is_some(), "rows keep different counts, some ids are replaced");
    let outcome = learns(&mut method, &parameters, &front).unwrap();
    assert_eq!(outcome.answers.unwrap().size(), [6 * 8, IDS]); // all selected are scored, dropped or not
    keeps_secrets(&method, &front, "ids");
}
