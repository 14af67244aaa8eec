//! `bench`: seconds a step beside what this machine can do.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use tch::{Device, Kind, Tensor};

use super::{Changes, Compute, say, say_json, session_or_noise};
use crate::data::{Ask, Front, Order, prepare, to_device};
use crate::method::Step;
use crate::run::{Register, Resolved, Session, machine, operations};
use crate::schedule::Clock;
use crate::train::{Optimiser, OptimiserConfig, Precision, learn};
use crate::{Error, Named, Result};

#[derive(Args)]
pub(super) struct Bench {
    /// A recipe
    recipe: PathBuf,
    /// Measured steps, after two that are thrown away
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    measure: u32,
    /// JSON instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    changes: Changes,
    #[command(flatten)]
    compute: Compute,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The best rate of matrix products of several sizes in the precision of training and by the library that it takes, in
/// operations a second.
fn matrix_peak(device: Device, precision: Precision) -> Result<f64> {
    let kind = match precision {
        Precision::Float32 => Kind::Float,
        Precision::Bf16 => Kind::BFloat16,
    };
    let mut best = 0.0f64;
    for size in [1024i64, 1536, 2048, 3072] {
        let [a, b] = [0, 1].map(|_| Tensor::rand([size, size], (Kind::Float, device)).to_kind(kind));
        let until = Instant::now() + Duration::from_millis(600);
        while Instant::now() < until {
            let begun = Instant::now();
            wait(&mask_torch::linear(&a, &b, None)?);
            best = best.max(2.0 * (size as f64).powi(3) / begun.elapsed().as_secs_f64());
        }
    }
    Ok(best)
}

/// What the steps of training took.
struct Steps {
    seconds: Vec<f64>,
    /// Of all threads together; shows how far other programs disturbed the seconds. Empty where nobody counts.
    processor: Vec<f64>,
    /// Operations of a step, where the method counts them.
    flops: Option<f64>,
}

/// Seconds that the processors have worked for this program, to a hundredth.
fn processor_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in brackets and may hold spaces. Linux counts in hundredths for users.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / 100.0)
}

/// Waits for the device, by reading one number.
fn wait(tensor: &Tensor) {
    if tensor.device() != Device::Cpu {
        let _ = tensor.reshape([-1]).get(0).double_value(&[]);
    }
}

impl Bench {
    pub(super) fn run(self, register: &Register) -> Result<()> {
        let threads = self.compute.start();
        let device = self.compute.device;
        let overrides = self.changes.overrides();
        let (session, note) = session_or_noise(|| Resolved::read(register, &self.recipe, &overrides), device)?;
        let Steps { seconds: each, processor, flops } = self.steps(&session, device)?;
        let seconds = median(each.clone());
        // Before what follows can raise it.
        let memory = mask_torch::peak_memory(device)?.unwrap_or(0) as f64 / 1e6;
        let precision = session.resolved.config.train.precision;
        let peak = matrix_peak(device, precision)?;
        let [planned, loaded] = rates(&session)?;
        let batch = session.resolved.batch.size as f64;
        let share = flops.map(|flops| flops / seconds / peak);
        if self.json {
            return say_json(&serde_json::json!({
                "recipe": self.recipe, "machine": machine(device), "threads": threads, "batch": batch, "note": note,
                "precision": precision, "seconds_a_step": seconds, "step_seconds": each,
                "step_processor_seconds": processor, "samples_per_second": batch / seconds, "flops_a_step": flops,
                "matrix_product_peak": peak, "share_of_peak": share, "peak_memory_mb": memory,
                "plans_per_second": planned, "loader_samples_per_second": loaded,
            }));
        }
        say(format_args!("machine              {}, {threads} threads", machine(device)));
        if let Some(note) = note {
            say(format_args!("data                 {note}"));
        }
        say(format_args!("seconds a step       {seconds:.4} (median of {})", self.measure));
        say(format_args!("samples a second     {:.1}", batch / seconds));
        if let (Some(flops), Some(share)) = (flops, share) {
            say(format_args!("operations a step    {:.1} GFLOP", flops / 1e9));
            say(format_args!(
                "share of the peak    {:.1} % of {:.0} GFLOP/s in matrix products",
                100.0 * share,
                peak / 1e9
            ));
        }
        say(format_args!("peak memory          {memory:.0} MB"));
        say(format_args!("plans a second       {planned:.0}"));
        say(format_args!("loader               {loaded:.0} samples a second"));
        Ok(())
    }

    /// Training steps without the loader.
    fn steps(&self, session: &Session, device: Device) -> Result<Steps> {
        let config = &session.resolved.config;
        let OptimiserConfig::AdamW(adamw) = &config.train.optimiser;
        let optimiser = Optimiser::new(&config.train.optimiser, &session.parameters)?;
        let batch = session.resolved.batch.size;
        let micro = session.resolved.batch.micro.unwrap_or(batch).min(batch) as usize;
        let ids: Vec<u64> = (0..batch).map(|id| id % session.train.len().max(1)).collect();
        let state = Named::new();
        let (mut seconds, mut processor, mut flops) = (Vec::new(), Vec::new(), None);
        for step in 0..u64::from(self.measure) + 2 {
            let clock = Clock::at(step, config.train.steps, 1);
            let ask = Ask { seed: config.seed, clock: &clock, train: true, masked: true, state: &state, grid: None };
            let prepared = prepare(&*session.train, &ids, &ask)?;
            flops = flops.or_else(|| operations(session, &prepared.items));
            let rows = prepared.items.len();
            let (begun, worked) = (Instant::now(), processor_seconds());
            mask_torch::drop_grads(optimiser.params())?;
            let micros = rows.div_ceil(micro) as u32;
            for first in (0..rows).step_by(micro) {
                let batch = to_device(&prepared, first..(first + micro).min(rows), device)?;
                let step = Step { clock: &clock, train: true, micro: (first / micro) as u32 };
                let _ = learn(&*session.method, batch, &step, micros, (device, config.train.precision))?;
            }
            let norm = mask_torch::grad_norm(&optimiser.grads())?;
            let (one, zero) = (Tensor::ones_like(&norm), Tensor::zeros_like(&norm));
            tch::no_grad(|| optimiser.step(adamw.peak(batch), &clock, &one, &zero))?;
            wait(&norm);
            if step >= 2 {
                seconds.push(begun.elapsed().as_secs_f64());
                processor.extend(worked.zip(processor_seconds()).map(|(before, now)| now - before));
            }
        }
        Ok(Steps { seconds, processor, flops })
    }
}

/// Plans and whole samples that the loader makes in a second.
fn rates(session: &Session) -> Result<[f64; 2]> {
    let front: &dyn Front = &*session.train;
    let seed = session.resolved.config.seed;
    let order = Order::new(seed, front.len(), session.resolved.batch.size)?;
    let state = Named::new();
    let clock = Clock::at(0, 1, order.steps_in_epoch());
    let ask = Ask { seed, clock: &clock, train: true, masked: true, state: &state, grid: None };
    let ids: Vec<u64> = (0..256).map(|id| id % front.len()).collect();
    let rate = |work: &dyn Fn() -> Result<()>| -> Result<f64> {
        let (begun, mut rounds) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_millis(500) {
            work()?;
            rounds += 1;
        }
        Ok(f64::from(rounds) * ids.len() as f64 / begun.elapsed().as_secs_f64())
    };
    let rate_of_plans = rate(&|| front.plan(&ids, &ask).map(drop))?;
    let rate_of_samples = rate(&|| prepare(front, &ids, &ask).map(drop))?;
    if !(rate_of_plans.is_finite() && rate_of_samples.is_finite()) {
        return Err(Error::Defect("a rate that is not finite".to_owned()));
    }
    Ok([rate_of_plans, rate_of_samples])
}
