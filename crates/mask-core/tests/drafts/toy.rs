//! What the drafts stand on: a data set made by a formula, and a small encoder of tokens.

use mask_core::data::{Array, Ask, Front, Item, ItemView, prepare, to_device};
use mask_core::nn::{Init, InitRule, Linear, Parameters, PositionTable, Scope, Stack, StackConfig};
use mask_core::sampler::{Hints, Moment, Row, draw};
use mask_core::{
    Batch, Clock, DevicePlan, Draft, Encoder, Error, Features, Grid, Layout, Method, Named, Outcome, Plan, Result,
    Sampler, Step, Stream, View, Want,
};
use ndarray::{ArrayD, IxDyn};
use tch::{Device, Kind, Tensor};

/// Numbers of a token, ids that there are, numbers of a raw token.
pub const WIDTH: i64 = 16;
pub const IDS: i64 = 11;
pub const RAW: i64 = 6;

pub fn stack(depth: usize) -> StackConfig {
    StackConfig { init: InitRule::Xavier, ..StackConfig::vit(WIDTH, depth, 2) }
}

/// Samples with real values, ids and two columns of labels at each position of a layout.
pub struct Toy<S> {
    pub sampler: S,
    /// The layout of a sample; rows of a batch are padded to the longest.
    pub lengths: fn(u64) -> usize,
    pub grid: Option<Grid>,
    /// What stands at hidden positions.
    pub fill: fn(Plan, &mut Stream) -> Plan,
}

impl<S: Sampler> Front for Toy<S> {
    fn len(&self) -> u64 {
        64
    }

    fn plan(&self, global: &[u64], ask: &Ask<'_>) -> Result<Vec<Item>> {
        let longest = global.iter().map(|id| (self.lengths)(*id)).max().unwrap_or(1);
        let layout = |id: u64| match &self.grid {
            Some(grid) => Ok(Layout::single(grid.clone())),
            // Padding may never be hidden; it stays in the layout, so that a batch has one.
            None => {
                let padding = ((self.lengths)(id) as u32..longest as u32).collect();
                Layout::single(Grid::line(longest)).with_fixed(padding)
            }
        };
        let rows: Vec<Row> = global
            .iter()
            .map(|id| Ok(Row { id: *id, layout: layout(*id)?, hints: Hints::default() }))
            .collect::<Result<_>>()?;
        let moment = Moment { seed: ask.seed, clock: ask.clock, state: ask.state };
        let drafts = draw(&self.sampler, &rows, 0, &moment)?;
        let item = |(row, draft): (Row, Draft)| {
            let mut stream = Stream::new(row.id);
            let draft = match draft {
                Draft::Ready(plan) => Draft::Ready(without_padding((self.fill)(plan, &mut stream), &row.layout)),
                open => open,
            };
            Item { id: row.id, views: vec![ItemView { layout: row.layout, draft: Some(draft), inputs: Named::new() }] }
        };
        Ok(rows.into_iter().zip(drafts).map(item).collect())
    }

    fn fill(&self, item: &mut Item, _: &Ask<'_>) -> Result<()> {
        let id = item.id as f32;
        for view in &mut item.views {
            let length = view.layout.len();
            let values = ArrayD::from_shape_fn(IxDyn(&[length, RAW as usize]), |at| {
                (id + at[0] as f32 * 0.7 + at[1] as f32).sin()
            });
            let ids = ArrayD::from_shape_fn(IxDyn(&[length]), |at| (item.id as i64 * 3 + at[0] as i64 * 5) % IDS);
            let labels = ArrayD::from_shape_fn(IxDyn(&[length, 2]), |at| (at[0] as i64 / 2 + at[1] as i64) % 4);
            view.inputs.insert("values".to_owned(), Array::F32(values));
            view.inputs.insert("ids".to_owned(), Array::I64(ids));
            view.inputs.insert("labels".to_owned(), Array::I64(labels));
        }
        Ok(())
    }
}

/// The encoder reads no padding.
fn without_padding(mut plan: Plan, layout: &Layout) -> Plan {
    plan.seen.retain(|position| layout.fixed().binary_search(position).is_err());
    plan
}

/// A batch of the first samples, at a step.
pub fn batch(front: &dyn Front, rows: u64, clock: &Clock) -> Batch {
    let state = Named::new();
    let ask = Ask { seed: 7, clock, train: true, masked: true, state: &state, grid: None };
    let prepared = prepare(front, &(0..rows).collect::<Vec<_>>(), &ask).unwrap();
    to_device(&prepared, 0..rows as usize, Device::Cpu).unwrap()
}

/// Values or ids to tokens, positions, mask tokens, blocks.
pub struct Tokens {
    values: Linear,
    ids: Tensor,
    mask_token: Tensor,
    positions: Option<Tensor>,
    stack: Stack,
    reads: &'static str,
}

impl Tokens {
    /// Reads the input `values` or `ids` of a grid.
    pub fn new(at: &Scope, grid: &Grid, reads: &'static str) -> Result<Self> {
        Ok(Self {
            values: Linear::new(&at.enter("values"), RAW, WIDTH, Init::xavier(RAW, WIDTH))?,
            ids: at.weight("ids", &[IDS + 1, WIDTH], Init::Normal(0.5))?,
            mask_token: at.weight("mask_token", &[1, 1, WIDTH], Init::Normal(0.02))?,
            positions: PositionTable::Learned.build(at, grid, WIDTH, 0, InitRule::Normal, false)?,
            stack: Stack::new(at, &stack(2))?,
            reads,
        })
    }

    /// Tokens before positions: [B, L, D], replaced ids in place.
    pub fn embed(&self, view: &View, plan: Option<&DevicePlan>) -> Result<Tensor> {
        let input = view.input(self.reads)?;
        if self.reads == "values" {
            return Ok(self.values.forward(input));
        }
        let mut ids = input.shallow_clone();
        if let Some((at, other)) = plan.and_then(|plan| plan.values.as_ref()) {
            ids = ids.view([-1]).index_copy(0, at, other).view_as(input);
        }
        Ok(Tensor::embedding(&self.ids, &ids, -1, false, false))
    }

    /// The tied head: [.., D] to logits.
    pub fn logits(&self, x: &Tensor) -> Tensor {
        x.matmul(&self.ids.slice(0, 0, IDS, 1).transpose(0, 1))
    }
}

impl Encoder for Tokens {
    fn encode(&self, view: &View, plan: Option<&DevicePlan>, want: &Want, step: &Step<'_>) -> Result<Features> {
        let mut x = self.embed(view, plan)?;
        if let Some(hidden) = plan.and_then(|plan| plan.mask_tokens.as_ref()) {
            x = self.mask_token.where_self(&hidden.unsqueeze(2), &x);
        }
        if let Some(table) = &self.positions {
            x += table.slice(0, 0, x.size()[1], 1).unsqueeze(0);
        }
        let mut valid = None;
        if let Some(plan) = plan {
            x = plan.seen.take(&x);
            valid = plan.seen.valid.as_ref();
        }
        Ok(self.stack.forward(x, 0, valid, |_| None, want, step.train))
    }

    fn depth(&self) -> usize {
        self.stack.depth()
    }

    fn width(&self) -> i64 {
        self.stack.width()
    }
}

/// Runs a draft for some steps of plain gradient descent on one batch; the loss has to fall.
pub fn learns(method: &mut dyn Method, parameters: &Parameters, front: &dyn Front) -> Result<Outcome> {
    let mut losses = Vec::new();
    let mut last = None;
    for step in 0..12 {
        let clock = Clock { step: 0, steps: 100, epoch: 0, steps_in_epoch: 4 };
        let batch = batch(front, 6, &clock);
        let at = Step { clock: &clock, train: true, micro: 0 };
        let outcome = method.loss(&batch, &at)?;
        let loss = outcome.loss(1)?;
        losses.push(f64::try_from(&loss)?);
        loss.backward();
        tch::no_grad(|| {
            parameters.each(|parameter| {
                let grad = parameter.tensor.grad();
                assert!(parameter.trained || !grad.defined(), "{} is frozen", parameter.name);
                if grad.defined() {
                    let mut tensor = parameter.tensor.detach();
                    let _ = tensor.f_sub_(&(grad * 0.05)).unwrap();
                    let _ = parameter.tensor.grad().f_zero_().unwrap();
                }
            });
        });
        let clock = Clock { step, ..clock };
        method.after_step(&Named::new(), &Step { clock: &clock, ..at })?;
        last = Some(outcome);
    }
    assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
    assert!(losses[11] < losses[0], "{losses:?}");
    last.ok_or_else(|| Error::Defect("no step".to_owned()))
}

/// In evaluation mode the answers don't hang on hidden content: `disturb` changes it in a batch.
pub fn keeps_secrets(method: &dyn Method, front: &dyn Front, input: &str) {
    let clock = Clock { step: 0, steps: 100, epoch: 0, steps_in_epoch: 4 };
    let step = Step { clock: &clock, train: false, micro: 0 };
    let answers = |batch: &Batch| method.loss(batch, &step).unwrap().answers.unwrap();
    let clean = batch(front, 4, &clock);
    let mut other = batch(front, 4, &clock);
    let view = &mut other.views[0];
    // Where content is shown (kept positions of 80/10/10) it may matter: only what is not seen, or replaced, is changed.
    let plan = view.plan().unwrap();
    let seen =
        Tensor::zeros(plan.hidden.size(), (Kind::Bool, Device::Cpu)).view([-1]).index_fill(0, &plan.seen.flat, 1);
    let mut secret = plan.hidden.view([-1]).logical_and(&seen.logical_not());
    if let Some(tokens) = &plan.mask_tokens {
        secret = secret.logical_or(&tokens.view([-1]));
    }
    let values = view.inputs[input].shallow_clone();
    let mut shape = vec![-1];
    shape.extend(vec![1; values.dim() - 2]);
    let secret = secret.view(shape.as_slice());
    let flat = values.flatten(0, 1);
    let changed = if values.kind() == Kind::Int64 { (&flat + 1).remainder(IDS) } else { &flat + 3.0 };
    view.inputs.insert(input.to_owned(), changed.where_self(&secret, &flat).view_as(&values));
    assert_ne!(view.inputs[input], values, "nothing was changed");
    assert_eq!(answers(&clean), answers(&other));
}
