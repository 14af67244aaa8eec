//! I-JEPA: four target blocks whose size is drawn once a batch, one context block without them, cut to the shortest of
//! the batch; features of an EMA teacher as the target.

use mask_core::nn::{Decoder, DecoderConfig, Parameters, Scope};
use mask_core::objective::smooth_l1;
use mask_core::sampler::{Claims, Site};
use mask_core::schedule::Curve;
use mask_core::{
    Batch, Clock, Draft, Encoder, Error, Fill, Grid, Layout, Method, Named, Outcome, Plan, Predictor, Ramp, Result,
    Sampler, Step, Stream, Teacher, Want,
};
use tch::{Device, Kind, Tensor};

use super::toy::{Tokens, Toy, WIDTH, batch, learns, stack};

/// Multi-block masks (official positions and cut; `min_keep` of 4 on a small grid).
struct MultiBlock;

const KEEP: usize = 4;

fn sides(area: f64, aspect: f64, [height, width]: [usize; 2]) -> [usize; 2] {
    let side = |x: f64, most: usize| (x.sqrt().round_ties_even() as usize).min(most - 1).max(1);
    [side(area * aspect, height), side(area / aspect, width)]
}

fn block([h, w]: [usize; 2], [height, width]: [usize; 2], stream: &mut Stream) -> Vec<u32> {
    // The official randint excludes its upper end: the last row and column are never chosen.
    let top = stream.below((height - h) as u64) as usize;
    let left = stream.below((width - w) as u64) as usize;
    (top..top + h).flat_map(|row| (left..left + w).map(move |column| (row * width + column) as u32)).collect()
}

impl Sampler for MultiBlock {
    fn draft(&self, site: &Site<'_>, sample: &mut Stream, step: &mut Stream) -> Result<Draft> {
        let plane = site.layout.grid()?.as_plane()?;
        let area = |scale: f64| (site.layout.len() as f64 * scale).floor();
        // One number for scale and aspect, the same for all rows of the step.
        let r = step.uniform();
        let target = sides(area(0.15 + r * 0.05), 0.75 + r * 0.75, plane);
        let context = sides(area(0.85 + step.uniform() * 0.15), 1.0, plane);
        for _ in 0..1000 {
            let queried: Vec<Vec<u32>> = (0..4).map(|_| block(target, plane, sample)).collect();
            let mut seen = block(context, plane, sample);
            seen.retain(|position| !queried.iter().any(|set| set.contains(position)));
            if seen.len() >= KEEP {
                let scored = queried.concat();
                let hidden: Vec<u32> = (0..site.layout.len() as u32).filter(|p| !seen.contains(p)).collect();
                let fill = vec![Fill::Drop; hidden.len()];
                return Ok(Draft::Ready(Plan {
                    seen,
                    hidden,
                    fill,
                    queried,
                    scored,
                    weights: None,
                    units: Vec::new(),
                }));
            }
        }
        Err(Error::value("multi_block", "no context of enough tokens in 1000 tries"))
    }

    fn settle(&self, global: &mut [Draft], _: &mut Stream) -> Result<()> {
        let length = |draft: &Draft| if let Draft::Ready(plan) = draft { plan.seen.len() } else { usize::MAX };
        let shortest = global.iter().map(length).min().unwrap_or(0);
        for draft in global {
            if let Draft::Ready(plan) = draft {
                plan.seen.truncate(shortest); // drops the bottom, as the official code does
            }
        }
        Ok(())
    }

    fn claims(&self, layout: &Layout, _: &Clock) -> Result<Claims> {
        Ok(Claims { hidden: 1..=layout.len(), every_position: false })
    }
}

struct Ijepa {
    encoder: Tokens,
    predictor: Decoder,
    teacher: Teacher<Tokens>,
    momentum: Ramp,
}

impl Ijepa {
    fn build(root: &Scope, grid: &Grid) -> Result<Self> {
        let encoder = |at: &Scope| Tokens::new(at, grid, "values");
        let (student, frozen) = (root.enter("encoder"), root.enter("teacher"));
        Ok(Self {
            encoder: encoder(&student)?,
            predictor: Decoder::new(
                &root.enter("predictor"),
                &DecoderConfig::new(8, 1, 2),
                &stack(1),
                grid,
                WIDTH,
                0,
                WIDTH,
            )?,
            teacher: Teacher::copy_of(&student, &frozen, encoder)?,
            momentum: Ramp::new(0.996, 1.0, Curve::Linear),
        })
    }
}

impl Method for Ijepa {
    fn loss(&self, batch: &Batch, step: &Step<'_>) -> Result<Outcome> {
        let view = batch.only_view()?;
        let plan = view.plan()?;
        let context = self.encoder.encode(view, Some(plan), &Want::last(), step)?; // [B, K, D]
        let groups = 0..plan.queried.len();
        let answers: Vec<Tensor> =
            groups.map(|group| self.predictor.answer(&context, plan, group, step)).collect::<Result<_>>()?;
        let whole = self
            .teacher
            .ask(|teacher| Ok(teacher.encode(view, None, &Want::last(), &Step { train: false, ..*step })?.tokens()))?; // [B, L, D]
        let targets = plan.scored.take_flat(&whole.layer_norm([WIDTH], None::<&Tensor>, None::<&Tensor>, 1e-5, true));
        let answers = Tensor::cat(&answers, 0);
        let errors = smooth_l1(&answers, &targets)?; // [N]
        Ok(Outcome::one("features", errors.sum(None), batch.totals.scored[0]).with(answers, targets))
    }

    fn after_step(&mut self, _: &Named<Tensor>, step: &Step<'_>) -> Result<Named<Tensor>> {
        self.teacher.follow(self.momentum.at(step.clock));
        Ok(Named::new())
    }

    fn encoder(&self) -> &dyn Encoder {
        &self.encoder
    }
}

#[test]
fn ijepa() {
    let grid = Grid::plane(8, 8);
    let front = Toy { sampler: MultiBlock, lengths: |_| 64, grid: Some(grid.clone()), fill: |plan, _| plan };
    let clock = Clock::at(0, 100, 4);
    let drawn = batch(&front, 6, &clock);
    let plan = drawn.views[0].plan().unwrap();
    assert_eq!(plan.queried.len(), 4);
    assert!(plan.seen.valid.is_none(), "the context is cut to the shortest of the batch");
    assert!(
        plan.queried.iter().all(|query| query.ids.valid.is_none() && query.ids.width() == plan.queried[0].ids.width())
    );
    let parameters = Parameters::new(Device::Cpu, 1);
    let mut method = Ijepa::build(&parameters.root(), &grid).unwrap();
    // The teacher starts as a copy and follows: after n steps of a student that stands still it is where it was.
    let named = parameters.named();
    let of = |name: &str| named.iter().find(|(n, _)| n == name).unwrap().1.detach().copy();
    assert_eq!(of("teacher.ids"), of("encoder.ids"));
    learns(&mut method, &parameters, &front).unwrap();
    let gap = (of("teacher.values.weight") - of("encoder.values.weight")).abs().max().double_value(&[]);
    assert!(gap > 0.0 && of("teacher.values.weight").isfinite().all().to_kind(Kind::Int64).int64_value(&[]) == 1);
}
