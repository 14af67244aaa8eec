//! Laws that every method of the register keeps, checked on its small recipe over noise. A new method is covered by
//! its line in the register and its `experiments/image/<name>.yaml`.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mask_core::data::{Ask, Prepared, prepare, to_device};
use mask_core::method::{Count, DeviceDraft, MethodEntry};
use mask_core::recipe::Value;
use mask_core::run::{Overrides, Resolved, Session};
use mask_core::{Batch, Clock, DevicePlan, Named, Outcome, Result, Split, Step, View, Want};
use mask_image::REGISTER;
use tch::{Device, Kind, Tensor};

/// Samples of the global batch.
const BATCH: u64 = 6;

const CLOCK: Clock = Clock { step: 0, steps: 100, epoch: 0, steps_in_epoch: 10 };

/// Trained parameters that get no gradient, with the reason: `(method, name, reason)`.
const WITHOUT_GRADIENT: &[(&str, &str, &str)] = &[];

/// libtorch has one generator for all threads: laws run one after another.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn step(train: bool) -> Step<'static> {
    Step { clock: &CLOCK, train, micro: 0 }
}

/// A method's small recipe over noise, with changes, and a global batch of it.
struct Case {
    name: &'static str,
    session: Session,
    prepared: Prepared,
}

impl Case {
    fn build(entry: &'static MethodEntry, sets: &[String]) -> Result<Self> {
        let name = entry.card.name;
        let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../experiments/image/{name}.yaml"));
        assert!(recipe.is_file(), "{name} has no small recipe {}", recipe.display());
        let overrides = Overrides { sets: sets.to_vec(), ..Overrides::default() };
        let resolved = Resolved::read(&REGISTER, &recipe, &overrides)?;
        let session = Session::over([Split::Synthetic, Split::Synthetic], resolved, Device::Cpu)?;
        let state = Named::new();
        let ask = Ask { seed: 0, clock: &CLOCK, train: true, masked: true, state: &state, grid: None };
        let ids: Vec<u64> = (0..BATCH).collect();
        let prepared = prepare(&*session.train, &ids, &ask)?;
        Ok(Self { name, session, prepared })
    }

    fn batch(&self) -> Batch {
        self.rows(0..self.prepared.items.len())
    }

    fn rows(&self, rows: std::ops::Range<usize>) -> Batch {
        to_device(&self.prepared, rows, Device::Cpu).unwrap()
    }

    fn loss(&self, batch: &Batch, train: bool) -> Outcome {
        self.session.method.loss(batch, &step(train)).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    fn clear(&self) {
        self.session.parameters.each(|parameter| {
            let mut gradient = parameter.tensor.grad();
            if gradient.defined() {
                let _ = gradient.zero_();
            }
        });
    }

    /// Gradients of the trained parameters after a backward.
    fn gradients(&self) -> Vec<(String, Tensor)> {
        let mut all = Vec::new();
        self.session.parameters.each(|parameter| {
            if parameter.trained && parameter.tensor.grad().defined() {
                all.push((parameter.name.clone(), parameter.tensor.grad().copy()));
            }
        });
        all
    }
}

/// Runs a law on every method, and on what encoders are fine-tuned to, with its small recipe.
fn each(law: impl Fn(&Case)) {
    each_with(|_| Vec::new(), law);
}

/// As [`each`], with changes to the recipe that hang on its resolved keys.
fn each_with(sets: impl Fn(&Value) -> Vec<String>, law: impl Fn(&Case)) {
    let _alone = alone();
    assert!(!REGISTER.methods.is_empty());
    for entry in REGISTER.methods.iter().chain(REGISTER.tasks) {
        let plain = Case::build(entry, &[]).unwrap_or_else(|error| panic!("{}: {error}", entry.card.name));
        let sets = sets(&plain.session.resolved.value["method"]);
        let case = if sets.is_empty() { Ok(plain) } else { Case::build(entry, &sets) };
        law(&case.unwrap_or_else(|error| panic!("{} {sets:?}: {error}", entry.card.name)));
    }
}

/// Paths below `method` of every key of a name.
fn paths(value: &Value, key: &str, at: &str) -> Vec<String> {
    let Value::Mapping(mapping) = value else { return Vec::new() };
    let path = |name: &Value| format!("{at}.{}", name.as_str().unwrap_or_default());
    mapping
        .iter()
        .flat_map(
            |(name, value)| {
                if name.as_str() == Some(key) { vec![path(name)] } else { paths(value, key, &path(name)) }
            },
        )
        .collect()
}

fn number(tensor: &Tensor) -> f64 {
    tensor.to_kind(Kind::Double).double_value(&[])
}

fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    a.size() == b.size() && a.kind() == b.kind() && a.equal(b)
}

/// Pixels that a model can learn to fill in: waves, another one in each sample.
fn waves(like: &Tensor) -> Tensor {
    let size = like.size();
    let axis = |side: i64| Tensor::linspace(0.0, 3.0, side, (Kind::Float, Device::Cpu));
    let (down, across) = (axis(size[2]).view([1, 1, -1, 1]), axis(size[3]).view([1, 1, 1, -1]));
    let phase = Tensor::arange(size[0], (Kind::Float, Device::Cpu)).view([-1, 1, 1, 1]);
    (down + across * 2.0 + phase).sin().expand(&size, false).contiguous()
}

#[test]
fn the_first_loss_is_finite_and_falls_on_a_fixed_batch() {
    each(|case| {
        let mut batch = case.batch();
        for view in &mut batch.views {
            let pixels = waves(view.input("pixels").unwrap());
            view.inputs.insert("pixels".to_owned(), pixels);
        }
        // Adam without weight decay: parameter, mean and mean square of its gradient.
        let mut trained = Vec::new();
        case.session.parameters.each(|parameter| {
            if parameter.trained {
                let [mean, square] = [parameter.tensor.zeros_like(), parameter.tensor.zeros_like()];
                trained.push((parameter.tensor.shallow_clone(), mean.detach(), square.detach()));
            }
        });
        let mut losses = Vec::new();
        for at in 1..=20 {
            case.clear();
            let loss = case.loss(&batch, false).loss(1).unwrap();
            losses.push(number(&loss));
            loss.backward();
            tch::no_grad(|| {
                for (parameter, mean, square) in &mut trained {
                    let gradient = parameter.grad();
                    if !gradient.defined() {
                        continue;
                    }
                    let _ = mean.lerp_(&gradient, 0.1);
                    let _ = square.lerp_(&gradient.square(), 0.05);
                    let [mean, square] = [&*mean / (1.0 - 0.9f64.powi(at)), &*square / (1.0 - 0.95f64.powi(at))];
                    let _ = parameter.g_sub_(&(mean / (square.sqrt() + 1e-8) * 2e-3));
                }
            });
        }
        assert!(losses.iter().all(|loss| loss.is_finite()), "{}: {losses:?}", case.name);
        let last = losses[15..].iter().sum::<f64>() / 5.0;
        assert!(last < 0.98 * losses[0], "{}: {losses:?}", case.name);
    });
}

#[test]
fn a_gradient_reaches_every_trained_parameter_and_no_other() {
    each(|case| {
        case.loss(&case.batch(), true).loss(1).unwrap().backward();
        let mut problems = Vec::new();
        let mut count = 0;
        case.session.parameters.each(|parameter| {
            let gradient = parameter.tensor.grad();
            let reached = gradient.defined() && number(&gradient.abs().max()) > 0.0;
            let excused =
                WITHOUT_GRADIENT.iter().any(|(method, name, _)| (*method, *name) == (case.name, &parameter.name));
            if reached != (parameter.trained && !excused) {
                problems.push(format!("{} (trained: {}, reached: {reached})", parameter.name, parameter.trained));
            }
            assert_eq!(parameter.tensor.requires_grad(), parameter.trained, "{}: {}", case.name, parameter.name);
            assert!(!gradient.defined() || number(&gradient.isfinite().all().to_kind(Kind::Float)) == 1.0);
            count += usize::from(parameter.trained);
        });
        assert!(count > 0 && problems.is_empty(), "{}: {problems:?}", case.name);
    });
}

/// [B, 1, H, W]: 1 where a pixel lies at a position whose content the encoder reads. Patches follow the view's grid.
fn read(plan: &DevicePlan, view: &View) -> Tensor {
    let pixels = view.input("pixels").unwrap().size();
    let grid: Vec<i64> = view.layout.grid().unwrap().dims().iter().map(|side| *side as i64).collect();
    let rows = plan.seen.rows();
    let mut read = Tensor::zeros([rows * plan.seen.length], (Kind::Float, Device::Cpu));
    let _ = read.index_fill_(0, &plan.seen.flat, 1.0);
    let mut read = read.view([rows, plan.seen.length]);
    if let Some(tokens) = &plan.mask_tokens {
        read = &read * tokens.logical_not();
    }
    if let Some((at, _)) = &plan.values {
        let _ = read.view([-1]).index_fill_(0, at, 0.0);
    }
    let cells = read.view([rows, 1, grid[0], grid[1]]);
    cells.repeat_interleave_self_int(pixels[2] / grid[0], 2, None).repeat_interleave_self_int(
        pixels[3] / grid[1],
        3,
        None,
    )
}

/// The batch with other pixels where `mark` says 1 for a view.
fn changed(case: &Case, plans: &dyn Fn(usize) -> Tensor) -> Batch {
    let mut batch = case.batch();
    for (index, view) in batch.views.iter_mut().enumerate() {
        let pixels = view.input("pixels").unwrap();
        let noise = Tensor::randn_like(pixels);
        let pixels = pixels.where_self(&plans(index).eq(0.0), &noise);
        view.inputs.insert("pixels".to_owned(), pixels);
    }
    batch
}

#[test]
fn answers_hang_on_what_is_read_alone() {
    each(|case| {
        if case.session.resolved.is_task() {
            return; // nothing is hidden
        }
        tch::manual_seed(1);
        tch::no_grad(|| {
            let batch = case.batch();
            let first = case.loss(&batch, false);
            let marks: Vec<Tensor> = batch
                .views
                .iter()
                .enumerate()
                .map(|(index, view)| match (&view.draft, first.plans.get(index)) {
                    (DeviceDraft::Ready(plan), _) | (DeviceDraft::Open { .. }, Some(plan)) => read(plan, view),
                    // Read whole: nothing of it is hidden.
                    _ => view.input("pixels").unwrap().slice(1, 0, 1, 1).ones_like(),
                })
                .collect();
            assert!(marks.iter().any(|mark| number(&mark.mean(Kind::Float)) < 1.0), "{} hides nothing", case.name);
            // Other content would have another mask, where a model chose it: the first one is kept.
            let keep = |mut batch: Batch| {
                for (view, plan) in batch.views.iter_mut().zip(&first.plans) {
                    view.draft = DeviceDraft::Ready(plan.shallow_clone());
                }
                batch
            };
            let hidden = case.loss(&keep(changed(case, &|view| 1.0 - &marks[view])), false);
            let visible = case.loss(&keep(changed(case, &|view| marks[view].shallow_clone())), false);
            let [a, b, c] = [&first, &hidden, &visible].map(|outcome| outcome.predictions().unwrap());
            assert!(same_bits(a, b), "{}: a hidden pixel changes the answers", case.name);
            assert!(a.size() == c.size() && !a.equal(c), "{}: visible pixels don't change the answers", case.name);
            let targets = [&first, &hidden].map(|outcome| outcome.targets.as_ref().unwrap());
            assert!(!targets[0].equal(targets[1]), "{}: hidden pixels don't change the targets", case.name);
            // Ids stand for a whole row of answers.
            let shape = targets[0].size();
            assert!(shape == a.size() || shape == a.size()[..1], "{}: answers and targets {shape:?}", case.name);
        });
    });
}

#[test]
fn two_micro_batches_are_the_whole_batch() {
    // Samples are mixed with others of the global batch where a method mixes at all.
    let mixed = |value: &Value| match value.get("mix") {
        Some(_) => vec!["method.mix.mixup=0.8".to_owned(), "method.mix.cutmix=1".to_owned()],
        None => Vec::new(),
    };
    each_with(mixed, |case| {
        let whole = case.loss(&case.batch(), false);
        if whole.terms.iter().any(|term| matches!(term.count, Count::Micro(_))) {
            return; // averaged over micro-batches, as `--dry-run` says
        }
        let whole = whole.loss(1).unwrap();
        whole.backward();
        let expected = case.gradients();
        case.clear();
        let mut sum = 0.0;
        for rows in [0..2, 2..BATCH as usize] {
            let part = case.loss(&case.rows(rows), false).loss(2).unwrap();
            sum += number(&part);
            part.backward();
        }
        let whole = number(&whole);
        assert!((sum - whole).abs() <= 1e-5 * whole.abs(), "{}: {sum} is not {whole}", case.name);
        // Against the largest gradient: some, as those of key biases, are 0 but for rounding.
        let size = |g: &Tensor| number(&g.norm());
        let largest = expected.iter().map(|(_, g)| size(g)).fold(0.0, f64::max);
        for ((name, expected), (_, found)) in expected.iter().zip(case.gradients()) {
            let error = size(&(expected - found));
            assert!(error <= 1e-5 * size(expected).max(1e-2 * largest), "{}: {name} differs by {error}", case.name);
        }
    });
}

/// What scores choose of a row hangs on that row alone.
#[test]
fn settled_plans_are_those_of_the_whole_batch() {
    each(|case| {
        let hidden = |rows: std::ops::Range<usize>| -> Vec<Tensor> {
            let outcome = tch::no_grad(|| case.loss(&case.rows(rows), false));
            outcome.plans.iter().map(|plan| plan.hidden.shallow_clone()).collect()
        };
        let (whole, first, rest) = (hidden(0..BATCH as usize), hidden(0..2), hidden(2..BATCH as usize));
        for ((whole, first), rest) in whole.iter().zip(first).zip(rest) {
            assert!(whole.equal(&Tensor::cat(&[first, rest], 0)), "{}", case.name);
        }
    });
}

/// Dropout and stochastic depth are turned on wherever the method has them.
#[test]
fn the_same_step_twice_gives_the_same_bits() {
    let noisy = |value: &Value| {
        ["dropout", "drop_path"]
            .iter()
            .flat_map(|key| paths(value, key, "method"))
            .map(|path| format!("{path}=0.2"))
            .collect::<Vec<_>>()
    };
    each_with(noisy, |case| {
        let run = |seed| {
            case.clear();
            tch::manual_seed(seed);
            let outcome = case.loss(&case.batch(), true);
            let loss = outcome.loss(1).unwrap();
            loss.backward();
            (loss.detach(), case.gradients())
        };
        let (first, gradients) = run(5);
        let (second, again) = run(5);
        assert!(same_bits(&first, &second), "{}: the loss", case.name);
        assert_eq!(gradients.len(), again.len());
        for ((name, a), (_, b)) in gradients.iter().zip(&again) {
            assert!(same_bits(a, b), "{}: the gradient of {name}", case.name);
        }
        let random = !noisy(&case.session.resolved.value["method"]).is_empty();
        assert!(!random || !run(6).0.equal(&first), "{}: dropout draws nothing", case.name);
    });
}

/// A recipe that always hides all or nothing may be refused; one that may draw anything trains, whatever it draws.
#[test]
fn any_share_may_be_hidden() {
    let _alone = alone();
    for entry in REGISTER.methods {
        let plain = Case::build(entry, &[]).unwrap();
        for share in ["0", "1", "{kind: uniform, low: 0, high: 1}", "{kind: uniform, low: 0, high: 1, per: step}"] {
            let mut keys = paths(&plain.session.resolved.value["method"], "ratio", "method");
            keys.retain(|path| path.ends_with("mask.ratio")); // that of a crop is another one
            assert!(!keys.is_empty(), "{} has no ratio", entry.card.name);
            let sets: Vec<String> = keys.into_iter().map(|path| format!("{path}={share}")).collect();
            let case = match Case::build(entry, &sets) {
                Ok(case) => case,
                Err(error) => {
                    let told = error.exit_code() == 2 && error.to_string().contains("hides");
                    assert!(told && share.len() == 1, "{} at {share}: {error}", entry.card.name);
                    continue;
                }
            };
            let loss = case.loss(&case.batch(), true).loss(1).unwrap();
            loss.backward();
            assert!(number(&loss).is_finite(), "{} at {share}: {loss}", case.name);
            for (name, gradient) in case.gradients() {
                let finite = number(&gradient.isfinite().all().to_kind(Kind::Float)) == 1.0;
                assert!(finite, "{} at {share}: the gradient of {name} is not finite", case.name);
            }
        }
    }
}

#[test]
fn the_encoder_reads_a_whole_view() {
    each(|case| {
        let (encoder, batch) = (case.session.method.encoder(), case.batch());
        let depth = encoder.depth();
        let want = Want { layers: (1..=depth).collect(), attention_of: Some(0..1) };
        let view = &batch.views[0];
        let features = tch::no_grad(|| encoder.encode(view, None, &want, &step(false)).unwrap());
        assert_eq!(features.layers.len(), depth, "{}", case.name);
        let tokens = features.prefix + view.layout.len() as i64;
        for layer in &features.layers {
            assert_eq!(layer.size(), [BATCH as i64, tokens, encoder.width()], "{}", case.name);
            assert!(number(&layer.isfinite().all().to_kind(Kind::Float)) == 1.0, "{}", case.name);
        }
        assert_eq!(features.tokens().size()[1], view.layout.len() as i64, "{}", case.name);
        assert_eq!(features.pooled().size(), [BATCH as i64, encoder.width()], "{}", case.name);
        let attention = features.attention.as_ref().unwrap_or_else(|| panic!("{} gives no attention", case.name));
        let sums = attention.sum_dim_intlist(-1, false, Kind::Double);
        assert!(number(&(sums - 1.0).abs().max()) < 1e-5, "{}: attention doesn't sum to 1", case.name);
        let again = tch::no_grad(|| encoder.encode(view, None, &Want::last(), &step(false)).unwrap());
        assert!(same_bits(features.last(), again.last()), "{}: what is wanted changes the output", case.name);
    });
}

#[test]
fn there_is_something_to_look_at() {
    each(|case| {
        let sheet = tch::no_grad(|| case.session.method.show(&case.batch(), &step(false)).unwrap());
        assert_eq!(sheet.rows.len(), BATCH as usize, "{}", case.name);
        assert!(!sheet.columns.is_empty() && !sheet.caption.is_empty(), "{}", case.name);
        for panel in sheet.rows.iter().flatten() {
            assert_eq!(panel.data.len() as u32, panel.width * panel.height * panel.channels, "{}", case.name);
        }
        assert!(sheet.rows.iter().all(|row| row.len() == sheet.columns.len()), "{}", case.name);
    });
}
