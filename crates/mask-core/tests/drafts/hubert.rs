//! HuBERT: spans of frames become a mask vector; two label sets (of two clusterings) by a cosine head; rows of unequal
//! length, and thinning to the shortest count.

use mask_core::nn::{Init, Linear, Parameters, Scope};
use mask_core::objective::cross_entropy;
use mask_core::sampler::{Claims, Site};
use mask_core::{
    Batch, Clock, Draft, Encoder, Fill, Grid, Layout, Method, Outcome, Plan, Result, Sampler, Step, Stream, Want,
};
use tch::{Device, Kind, Tensor};

use super::toy::{Tokens, Toy, WIDTH, batch, keeps_secrets, learns};

/// Spans of fixed length whose starts are drawn without replacement; rows of a batch are thinned to equal counts
/// (fairseq's `require_same_masks`).
struct Spans {
    share: f64,
    length: usize,
}

impl Sampler for Spans {
    fn draft(&self, site: &Site<'_>, sample: &mut Stream, _: &mut Stream) -> Result<Draft> {
        let free = site.layout.free();
        // floor(p * n / length + u) spans, at least two.
        let spans = ((self.share * free.len() as f64 / self.length as f64 + sample.uniform()) as usize).max(2);
        let starts = sample.permutation(free.len().saturating_sub(self.length).max(1));
        let units: Vec<_> = starts.into_iter().take(spans).map(|start| start..start + self.length as u32).collect();
        let mut hidden: Vec<u32> = units.iter().flat_map(Clone::clone).map(|at| free[at as usize]).collect();
        hidden.sort_unstable();
        hidden.dedup();
        Ok(Draft::Ready(Plan { units, ..Plan::hide(site.layout, hidden)? }))
    }

    fn settle(&self, global: &mut [Draft], step: &mut Stream) -> Result<()> {
        let count = |draft: &Draft| if let Draft::Ready(plan) = draft { plan.hidden.len() } else { usize::MAX };
        let fewest = global.iter().map(count).min().unwrap_or(0);
        for draft in global {
            if let Draft::Ready(plan) = draft {
                let mut kept: Vec<u32> = step.permutation(plan.hidden.len()).into_iter().take(fewest).collect();
                kept.sort_unstable();
                let hidden: Vec<u32> = kept.into_iter().map(|at| plan.hidden[at as usize]).collect();
                let length = plan.seen.len() + plan.hidden.len();
                *plan = Plan { units: Vec::new(), ..Plan::hide(&Layout::single(Grid::line(length)), hidden)? };
            }
        }
        Ok(())
    }

    fn claims(&self, layout: &Layout, _: &Clock) -> Result<Claims> {
        Ok(Claims { hidden: 1..=layout.free().len(), every_position: false })
    }
}

struct Hubert {
    encoder: Tokens,
    /// Projections of all label sets in one map, and a table of classes a set.
    project: Linear,
    classes: Vec<Tensor>,
}

impl Hubert {
    fn build(root: &Scope) -> Result<Self> {
        let sets = [4, 5];
        let table = |set: usize, count: i64| root.weight(&format!("classes.{set}"), &[count, 8], Init::Uniform(1.0));
        Ok(Self {
            encoder: Tokens::new(&root.enter("encoder"), &Grid::line(40), "values")?,
            project: Linear::new(&root.enter("project"), WIDTH, 8 * sets.len() as i64, Init::xavier(WIDTH, 16))?,
            classes: sets.iter().enumerate().map(|(set, count)| table(set, *count)).collect::<Result<_>>()?,
        })
    }
}

fn cosine_logits(x: &Tensor, classes: &Tensor) -> Tensor {
    let unit = |t: &Tensor| t / t.norm_scalaropt_dim(2, [-1], true).clamp_min(1e-8);
    unit(x).matmul(&unit(classes).transpose(0, 1)) / 0.1
}

impl Method for Hubert {
    fn loss(&self, batch: &Batch, step: &Step<'_>) -> Result<Outcome> {
        let view = batch.only_view()?;
        let plan = view.plan()?;
        let read = self.encoder.encode(view, Some(plan), &Want::last(), step)?; // [B, T, D], padded
        let hidden = plan.query(0)?.take(&read.tokens()); // [N, D]
        let labels = plan.scored.take_flat(view.input("labels")?); // [N, sets]
        let projected = self.project.forward(&hidden); // [N, sets * F]
        let mut sum = Tensor::zeros([1], (Kind::Float, Device::Cpu));
        for (set, classes) in self.classes.iter().enumerate() {
            let logits = cosine_logits(&projected.chunk(2, 1)[set], classes);
            sum += cross_entropy(&logits, &labels.select(1, set as i64), 0.0)?.sum(None);
        }
        // The sum over label sets is divided by the hidden frames, counted once.
        Ok(Outcome::one("clusters", sum.view([]), batch.totals.scored[0]).with(projected, labels))
    }

    fn encoder(&self) -> &dyn Encoder {
        &self.encoder
    }
}

#[test]
fn hubert() {
    let front = Toy {
        sampler: Spans { share: 0.8, length: 4 },
        lengths: |id| 20 + id as usize * 4 % 17,
        grid: None,
        fill: |plan, _| plan.filled(|_| Fill::MaskToken),
    };
    let clock = Clock::at(0, 100, 4);
    let drawn = batch(&front, 6, &clock);
    let plan = drawn.views[0].plan().unwrap();
    assert!(plan.seen.valid.is_some(), "rows have unequal lengths");
    assert!(plan.scored.valid.is_none(), "thinned to equal counts");
    let parameters = Parameters::new(Device::Cpu, 1);
    let mut method = Hubert::build(&parameters.root()).unwrap();
    learns(&mut method, &parameters, &front).unwrap();
    keeps_secrets(&method, &front, "values");
}
