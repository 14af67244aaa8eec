//! Pins of the papers that need a whole method.

use mask_core::data::{Ask, prepare, to_device};
use mask_core::nn::Parameters;
use mask_core::recipe::{Tree, Value};
use mask_core::run::{Overrides, Resolved, Session};
use mask_core::{Batch, Clock, Method, Named, Outcome, Split, Step};
use tch::{Device, Kind, Tensor};

const CLOCK: Clock = Clock { step: 0, steps: 1, epoch: 0, steps_in_epoch: 1 };

/// A method of small size on noise, by a recipe in one line.
fn session(text: &str) -> Session {
    let value: Value = serde_yaml::from_str(text).unwrap();
    let tree = Tree::from_value(value, "pins");
    let resolved = Resolved::of(&mask_image::REGISTER, tree, &Overrides::default()).unwrap();
    Session::over([Split::Synthetic; 2], resolved, Device::Cpu).unwrap()
}

const TINY: &str = "encoder: {image: [16, 16], channels: 1, patch: [4, 4], width: 16, depth: 2, heads: 2, mlp: 32}";
const DATA: &str = "data: {augment: {mean: [0], std: [1]}}";

fn mae(more: &str) -> Session {
    let predictor = "predictor: {width: 16, depth: 1, heads: 2, mlp: 32}";
    session(&format!("{{{DATA}, method: {{kind: mae, {TINY}, {predictor}{more}}}}}"))
}

fn simmim(more: &str) -> Session {
    session(&format!("{{{DATA}, method: {{kind: simmim, {TINY}{more}}}}}"))
}

fn batch(session: &Session) -> Batch {
    let state = Named::new();
    let ask = Ask { seed: 3, clock: &CLOCK, train: false, masked: true, state: &state, grid: None };
    let prepared = prepare(&*session.train, &[0, 1, 2, 3], &ask).unwrap();
    to_device(&prepared, 0..4, Device::Cpu).unwrap()
}

fn run(method: &dyn Method, batch: &Batch) -> Outcome {
    method.loss(batch, &Step { clock: &CLOCK, train: false, micro: 0 }).unwrap()
}

fn loss(outcome: &Outcome) -> f64 {
    f64::try_from(outcome.loss(1).unwrap()).unwrap()
}

/// Ledger 081: the loss is the mean over the values of a patch, then over all hidden patches of the batch.
#[test]
fn maes_loss_is_the_mean_over_hidden_patches() {
    let session = mae("");
    let outcome = run(&*session.method, &batch(&session));
    let (answers, targets) = (outcome.answers.as_ref().unwrap(), outcome.targets.as_ref().unwrap());
    assert_eq!(answers.size(), [4 * 12, 16]);
    let by_hand = (answers - targets).square().mean(Kind::Double).double_value(&[]);
    assert!((loss(&outcome) - by_hand).abs() < 1e-6);
}

/// Ledger 081: permuting the kept ids leaves the loss unchanged.
#[test]
fn the_order_of_what_is_seen_means_nothing() {
    let session = mae("");
    let state = Named::new();
    let ask = Ask { seed: 3, clock: &CLOCK, train: false, masked: true, state: &state, grid: None };
    let mut prepared = prepare(&*session.train, &[0, 1, 2, 3], &ask).unwrap();
    let one = loss(&run(&*session.method, &to_device(&prepared, 0..4, Device::Cpu).unwrap()));
    for item in &mut prepared.items {
        if let Some(mask_core::Draft::Ready(plan)) = &mut item.views[0].draft {
            plan.seen.reverse();
        }
    }
    let other = loss(&run(&*session.method, &to_device(&prepared, 0..4, Device::Cpu).unwrap()));
    assert!((one - other).abs() < 1e-6, "{one} {other}");
}

/// Ledger 081: the ablation in which the encoder reads mask tokens, and raw pixels as target.
#[test]
fn the_ablations_run() {
    for more in [", encoder_reads: all", ", target: none"] {
        let session = mae(more);
        assert!(loss(&run(&*session.method, &batch(&session))).is_finite(), "{more}");
    }
}

/// Ledger 007: with everything hidden the answers hang on the image not at all, and without positions all are equal.
#[test]
fn simmim_with_everything_hidden() {
    let session = simmim(", mask: {kind: uniform, ratio: 1.0}");
    let answers = run(&*session.method, &batch(&session)).answers.unwrap(); // [4 * 16, 16]
    let spread = (&answers - answers.get(0)).abs().max().double_value(&[]);
    assert!(spread < 1e-6, "{spread}"); // the bias tables are 0 at first
}

/// Ledger 007: x = [[1, 2], [3, 4]] in 3 channels, answer 0, mask on the diagonal: 2.49998750.
#[test]
fn simmims_loss() {
    let session = session(
        "{data: {augment: {mean: [0, 0, 0], std: [1, 1, 1]}}, method: {kind: simmim, mask: {kind: uniform, cell: 1}, \
         encoder: {image: [2, 2], channels: 3, patch: [1, 1], width: 8, depth: 1, heads: 2, mlp: 8}}}",
    );
    let mut batch = batch(&session);
    let layout = batch.views[0].layout.clone();
    let plan = mask_core::Plan::from_mask(&layout, &[true, false, false, true]).unwrap();
    let plan = plan.filled(|_| mask_core::Fill::MaskToken);
    let plan = mask_core::DevicePlan::collate(&[&plan], 4, Device::Cpu).unwrap();
    let x = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0]).view([1, 1, 2, 2]).expand([1, 3, 2, 2], false);
    batch.views[0].inputs.insert("pixels".to_owned(), x.contiguous());
    batch.views[0].draft = mask_core::method::DeviceDraft::Ready(plan);
    batch.totals.scored = vec![2.0];
    // An answer of 0: the head's parameters are cleared.
    tch::no_grad(|| {
        session.parameters.each(|p| {
            if p.name.starts_with("predictor.") {
                let _ = p.tensor.detach().zero_();
            }
        });
    });
    assert!((loss(&run(&*session.method, &batch)) - 2.499_987_5).abs() < 1e-6);
}

/// Ledger 081 and 007: what is decayed. MAE decays class and mask tokens; SimMIM its mask token, not its class token.
#[test]
fn decay_groups() {
    let decayed = |parameters: &Parameters, name: &str| {
        let mut found = None;
        parameters.each(|p| {
            if p.name == name {
                found = Some(p.decay);
            }
        });
        found
    };
    let (mae, simmim) = (mae(""), simmim(""));
    for (parameters, name, expected) in [
        (&mae.parameters, "encoder.class_token", true),
        (&mae.parameters, "predictor.mask_token", true),
        (&mae.parameters, "encoder.patch.bias", false),
        (&mae.parameters, "encoder.norm.weight", false),
        (&simmim.parameters, "encoder.class_token", false),
        (&simmim.parameters, "encoder.mask_token", true),
        (&simmim.parameters, "encoder.relative.table", true),
    ] {
        assert_eq!(decayed(parameters, name), Some(expected), "{name}");
    }
}

/// Ledger 081 and 007: peak rates and parameters at the papers' scale.
#[test]
fn paper_scale() {
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../experiments/image"));
    for (recipe, all, trained, peak) in
        [("mae.paper.yaml", 111_907_840, 111_655_680, 2.4e-3), ("simmim.paper.yaml", 86_256_720, 86_256_720, 4e-4)]
    {
        let resolved = Resolved::read(&mask_image::REGISTER, &root.join(recipe), &Overrides::default()).unwrap();
        let mask_core::train::OptimiserConfig::AdamW(adamw) = &resolved.config.train.optimiser;
        assert!((adamw.peak(resolved.batch.size) - peak).abs() < 1e-12);
        let session = Session::over([Split::Synthetic; 2], resolved, Device::Cpu).unwrap();
        assert_eq!(session.parameters.count(), (all, trained), "{recipe}");
    }
}
