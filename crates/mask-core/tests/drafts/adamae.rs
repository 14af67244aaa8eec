//! AdaMAE: a network scores all tokens, the loader leaves the plan open, and the draw is settled inside the loss; the
//! errors of what was hidden come back to the network.

use mask_core::method::{Count, Term};
use mask_core::nn::{Block, Decoder, DecoderConfig, Init, Linear, Parameters, Scope};
use mask_core::objective::squared_error;
use mask_core::sampler::{Claims, Site};
use mask_core::{
    Batch, Clock, DevicePlan, Draft, Encoder, Grid, Layout, Method, Outcome, Predictor, Result, Sampler, Step, Stream,
    Want,
};
use tch::{Device, Kind, Tensor};

use super::toy::{RAW, Tokens, Toy, WIDTH, learns, stack};

/// `int(N * (1 - ratio))` visible tokens, drawn without replacement from a learned distribution: the largest of
/// log p + Gumbel noise.
struct Learned {
    ratio: f64,
}

impl Learned {
    fn visible(&self, length: usize) -> u32 {
        (length as f64 * (1.0 - self.ratio)) as u32
    }
}

impl Sampler for Learned {
    fn draft(&self, site: &Site<'_>, sample: &mut Stream, _: &mut Stream) -> Result<Draft> {
        let length = site.layout.len();
        let visible = self.visible(length);
        Ok(Draft::Open { noise: sample.noise(length), counts: vec![length as u32 - visible, visible] })
    }

    fn select(&self, noise: &Tensor, counts: &[Vec<u32>], scores: &Tensor) -> Result<DevicePlan> {
        let gumbel = -(-(noise.clamp(1e-7, 1.0 - 1e-7).log())).log();
        let place = (scores + gumbel).argsort_stable(true, 1, true).argsort(1, false); // [B, L]
        let hidden: Vec<u32> = counts.iter().map(|row| row[0]).collect();
        // Every row has the same count of visible tokens.
        Ok(DevicePlan::hiding(place.ge(i64::from(counts[0][1])), &hidden))
    }

    fn claims(&self, layout: &Layout, _: &Clock) -> Result<Claims> {
        Ok(Claims::exactly(layout.len() - self.visible(layout.len()) as usize))
    }
}

struct AdaMae {
    encoder: Tokens,
    predictor: Decoder,
    sampler: Learned,
    scorer: (Block, Linear),
}

impl AdaMae {
    fn build(root: &Scope, grid: &Grid) -> Result<Self> {
        let decoder = DecoderConfig::new(12, 1, 2);
        let scorer = root.enter("scorer");
        Ok(Self {
            encoder: Tokens::new(&root.enter("encoder"), grid, "values")?,
            predictor: Decoder::new(&root.enter("predictor"), &decoder, &stack(1), grid, WIDTH, 0, RAW)?,
            sampler: Learned { ratio: 0.75 },
            scorer: (
                Block::new(&scorer, &stack(1), 0)?,
                Linear::new(&scorer.enter("head"), WIDTH, 1, Init::xavier(WIDTH, 1))?,
            ),
        })
    }
}

impl Method for AdaMae {
    fn loss(&self, batch: &Batch, step: &Step<'_>) -> Result<Outcome> {
        let view = batch.only_view()?;
        let tokens = self.encoder.embed(view, None)?; // [B, L, D]
        let logits = self.scorer.1.forward(&self.scorer.0.forward(&tokens, None, step.train)).squeeze_dim(2);
        let log_p = logits.log_softmax(1, Kind::Float); // [B, L]
        let plan = view.settle(&self.sampler, || Ok(log_p.shallow_clone()))?;
        let seen = self.encoder.encode(view, Some(&plan), &Want::last(), step)?;
        let answers = self.predictor.answer(&seen, &plan, 0, step)?; // [N, P]
        let targets = plan.scored.take_flat(view.input("values")?);
        let errors = squared_error(&answers, &targets)?; // [N]
        let of_hidden = log_p.view([-1]).index_select(0, &plan.scored.flat); // [N]
        let reward = -(of_hidden * errors.detach()).sum(None);
        let mut outcome = Outcome::one("values", errors.sum(None), batch.totals.scored[0]).with(answers, targets);
        let count = Count::Global(batch.totals.scored[0]);
        outcome.terms.push(Term { name: "sampling", weight: 1e-4, sum: reward, count });
        Ok(outcome.under(vec![plan]))
    }

    fn encoder(&self) -> &dyn Encoder {
        &self.encoder
    }
}

#[test]
fn adamae() {
    let grid = Grid::volume(2, 4, 4);
    let front =
        Toy { sampler: Learned { ratio: 0.75 }, lengths: |_| 32, grid: Some(grid.clone()), fill: |plan, _| plan };
    let parameters = Parameters::new(Device::Cpu, 1);
    let mut method = AdaMae::build(&parameters.root(), &grid).unwrap();
    let outcome = learns(&mut method, &parameters, &front).unwrap();
    let plan = &outcome.plans[0];
    assert_eq!((plan.seen.width(), plan.scored.width()), (8, 24));
}

/// Ledger 128: p = (.5, .3, .2), two draws: inclusion 0.8393, 0.6750, 0.4857.
#[test]
fn gumbel_top_k_draws_without_replacement() {
    let rows = 20_000;
    let noise = Tensor::from_slice(&Stream::new(3).noise(rows * 3)).view([rows as i64, 3]);
    let log_p = Tensor::from_slice(&[0.5f32, 0.3, 0.2]).log().expand([rows as i64, 3], false);
    let plan = Learned { ratio: 0.0 }.select(&noise, &vec![vec![1, 2]; rows], &log_p).unwrap();
    let shares =
        Vec::<f64>::try_from(plan.hidden.logical_not().to_kind(Kind::Double).mean_dim(0, false, Kind::Double)).unwrap();
    for (share, pin) in shares.into_iter().zip([0.8393, 0.6750, 0.4857]) {
        assert!((share - pin).abs() < 0.012, "{share} {pin}");
    }
}

/// Ledger 128: the gradient of the sampling term with respect to the logits.
#[test]
fn the_sampling_gradient_is_the_ledgers() {
    let logits = Tensor::zeros([1, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let errors = Tensor::from_slice(&[4f32, 1.0, 1.0]);
    let of_hidden = logits.log_softmax(1, Kind::Float).view([-1]).slice(0, 0, 3, 1);
    let loss = -(of_hidden * errors).sum(None::<Kind>) / 3.0;
    assert!((f64::try_from(&loss).unwrap() - 2.7726).abs() < 1e-4);
    loss.backward();
    let gradient = Vec::<f32>::try_from(logits.grad().view([-1])).unwrap();
    for (found, pin) in gradient.into_iter().zip([-0.8333, 0.1667, 0.1667, 0.5]) {
        assert!((found - pin).abs() < 1e-4);
    }
}
