//! MaskGIT's decoding loop on the same encoder: everything hidden, the most certain draws are committed step by step.

use mask_core::method::{Denoiser, DeviceDraft};
use mask_core::nn::Parameters;
use mask_core::{Clock, Encoder, Fill, Grid, Layout, Named, Plan, Result, Step, Stream, View, Want};
use tch::{Device, Kind, Tensor};

use super::toy::{IDS, Tokens};

/// The id that stands for a hidden position.
const MASK: i64 = IDS;

struct Maskgit {
    encoder: Tokens,
    layout: Layout,
}

impl Denoiser for Maskgit {
    fn logits(&self, x: &Tensor, _: f64, _: Option<&Tensor>) -> Result<Tensor> {
        let ids = x.select(1, 0); // [B, L]
        let rows: Vec<Vec<i64>> = Vec::try_from(&ids)?;
        let plan = |row: &Vec<i64>| {
            let hidden: Vec<bool> = row.iter().map(|id| *id == MASK).collect();
            Ok(Plan::from_mask(&self.layout, &hidden)?.filled(|_| Fill::MaskToken))
        };
        let plans: Vec<Plan> = rows.iter().map(plan).collect::<Result<_>>()?;
        let plan = mask_core::DevicePlan::collate(&plans.iter().collect::<Vec<_>>(), self.layout.len(), x.device())?;
        let view = View {
            inputs: Named::from([("ids".to_owned(), ids)]),
            layout: self.layout.clone(),
            draft: DeviceDraft::Whole,
        };
        let clock = Clock::at(0, 1, 1);
        let step = Step { clock: &clock, train: false, micro: 0 };
        let read = self.encoder.encode(&view, Some(&plan), &Want::last(), &step)?;
        Ok(self.encoder.logits(&read.tokens()).unsqueeze(1)) // [B, 1, L, V]
    }
}

/// Hidden after step `s` of `t`: floor(n0 cos(pi rho / 2)), at least 1 and at least one fewer than now.
fn hidden_after(step: usize, steps: usize, start: usize, now: usize) -> usize {
    let ratio = (std::f64::consts::FRAC_PI_2 * (step + 1) as f64 / steps as f64).cos().clamp(1e-6, 1.0);
    ((start as f64 * ratio) as usize).min(now.saturating_sub(1)).max(1)
}

/// Decodes one row of ids, `MASK` where hidden.
fn decode(model: &dyn Denoiser, start: &[i64], steps: usize, tau: f64, stream: &mut Stream) -> Result<Vec<i64>> {
    let (mut x, length) = (start.to_vec(), start.len() as i64);
    let n0 = start.iter().filter(|id| **id == MASK).count();
    let mut record = x.clone();
    for step in 0..steps {
        let hidden: Vec<usize> = (0..x.len()).filter(|at| x[*at] == MASK).collect();
        if hidden.is_empty() {
            break;
        }
        let row = Tensor::from_slice(&x).view([1, 1, length]);
        let logits = tch::no_grad(|| model.logits(&row, hidden.len() as f64 / x.len() as f64, None))?;
        let log_p: Vec<Vec<f64>> = Vec::try_from(logits.view([length, -1]).log_softmax(-1, Kind::Double))?;
        record.clone_from(&x);
        let mut confidence = Vec::new();
        for &at in &hidden {
            let (mut left, mut id) = (stream.uniform(), 0);
            while id + 1 < log_p[at].len() && left >= log_p[at][id].exp() {
                left -= log_p[at][id].exp();
                id += 1;
            }
            record[at] = id as i64;
            let noise = -(-(1.0 - stream.uniform()).ln()).ln();
            let temperature = tau * (1.0 - (step + 1) as f64 / steps as f64);
            confidence.push((log_p[at][id] + temperature * noise, at));
        }
        // By confidence, then position: exactly so many are hidden again, also where confidences are equal.
        confidence.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        x.clone_from(&record);
        for (_, at) in confidence.into_iter().take(hidden_after(step, steps, n0, hidden.len())) {
            x[at] = MASK;
        }
    }
    Ok(record)
}

/// Ledger 130: hidden after each step.
#[test]
fn counts_are_the_ledgers() {
    let walk = |n0, steps| {
        let mut now = n0;
        let step = |s| {
            now = hidden_after(s, steps, n0, now);
            now
        };
        (0..steps).map(step).collect::<Vec<_>>()
    };
    assert_eq!(walk(256, 8), [251, 236, 212, 181, 142, 97, 49, 1]);
    assert_eq!(walk(49, 8), [48, 45, 40, 34, 27, 18, 9, 1]);
    assert_eq!(walk(4, 8), [3, 2, 1, 1, 1, 1, 1, 1]);
}

#[test]
fn maskgit() {
    let grid = Grid::plane(3, 3);
    let parameters = Parameters::new(Device::Cpu, 1);
    let encoder = Tokens::new(&parameters.root().enter("encoder"), &grid, "ids").unwrap();
    let model = Maskgit { encoder, layout: Layout::single(grid) };
    let mut start = vec![MASK; 9];
    (start[0], start[5]) = (3, 7);
    let run = |seed| decode(&model, &start, 4, 4.5, &mut Stream::new(seed)).unwrap();
    let drawn = run(1);
    assert_eq!((drawn[0], drawn[5]), (3, 7), "what is known never changes");
    assert!(drawn.iter().all(|id| (0..IDS).contains(id)), "{drawn:?}");
    assert_eq!(drawn, run(1));
    assert!((2..12).any(|seed| run(seed) != drawn));
    assert_eq!(decode(&model, &[1; 9], 4, 0.0, &mut Stream::new(0)).unwrap(), [1; 9]);
}
