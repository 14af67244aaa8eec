//! The experiment binary of a modality crate: the same verbs in each.

mod bench;
mod convert;
mod doctor;
mod export;
mod finetune;
mod list;
mod look;
mod measure;
mod table;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use tch::Device;

use crate::method::Split;
use crate::run::{Options, Overrides, Register, Resolved, Session, plan_of, plan_of_stages, pretrain_resolved};
use crate::stage::imagine;
use crate::train::watch_signals;
use crate::{Error, Result};

/// Masked modeling: hide part of the input, learn by predicting it.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Every method: name, paper, recipes, state
    List {
        /// A JSON array instead of lines
        #[arg(long)]
        json: bool,
    },
    /// Trains a recipe; writes recipe.yaml, metrics.jsonl, TensorBoard events, checkpoints and report.html
    Pretrain(Pretrain),
    /// Trains the encoder of a run, or of a Hugging Face folder, to classes by a recipe of kind classify
    #[command(allow_missing_positional = true)]
    Finetune(finetune::Finetune),
    /// Linear probe and kNN of a run's encoder, or of a Hugging Face folder
    Probe(measure::Probe),
    /// Held-out loss of a run
    Eval(measure::Eval),
    /// Features of your own files
    Embed(measure::Embed),
    /// A picture of masks and corruption, and from a run of its answers
    Show(look::Show),
    /// Only the plans, for statistics and other programs
    Masks(look::Masks),
    /// Runs a Hugging Face folder on given tensors
    Forward(measure::Forward),
    /// Runs a table: arms over seeds, a verdict for each claim, beside the paper's figures
    Table(table::TableVerb),
    /// Writes a run as a Hugging Face folder
    Export(export::Export),
    /// Turns a checkpoint of a paper's own repository into a Hugging Face folder; nothing in it is executed
    Convert(convert::Convert),
    /// What libtorch, CUDA, FFmpeg, threads and data are found
    Doctor,
    /// Seconds a step, operations, memory, and rates of samplers and loader
    Bench(bench::Bench),
}

/// Options of everything that computes.
#[derive(Args, Clone)]
struct Compute {
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", value_parser = device)]
    device: Device,
    /// Threads of libtorch and of the loader [default: all cores]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Option<u32>,
}

impl Compute {
    /// Sets libtorch's threads; gives their number.
    fn start(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = self.threads.map_or(cores, |threads| threads as usize);
        tch::set_num_threads(threads as i32);
        threads
    }
}

/// Options that change a recipe.
#[derive(Args, Clone, Default)]
struct Changes {
    /// Changes a key of the recipe; may be given several times
    #[arg(long = "set", value_name = "KEY.PATH=VALUE")]
    sets: Vec<String>,
    /// Sets seed
    #[arg(long)]
    seed: Option<u64>,
    /// Sets train.steps; schedules span them
    #[arg(long)]
    steps: Option<u64>,
}

impl Changes {
    fn overrides(&self) -> Overrides {
        Overrides { sets: self.sets.clone(), seed: self.seed, steps: self.steps }
    }
}

#[derive(Args)]
struct Pretrain {
    /// A recipe, or the folder of a run
    recipe: PathBuf,
    #[command(flatten)]
    training: Training,
}

/// Options of everything that trains a recipe.
#[derive(Args)]
struct Training {
    #[command(flatten)]
    changes: Changes,
    /// The run's folder [default: the next free one below runs]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Goes on from the last checkpoint in the folder
    #[arg(long)]
    resume: bool,
    /// Stops after so many steps; schedules don't change
    #[arg(long)]
    stop_at: Option<u64>,
    /// Builds everything, prints parameters, tokens, operations and memory, and stops
    #[arg(long)]
    dry_run: bool,
    /// What came out as JSON instead of lines
    #[arg(long, conflicts_with = "dry_run")]
    json: bool,
    #[command(flatten)]
    compute: Compute,
}

/// A device by its name on the command line.
fn device(name: &str) -> Result<Device, String> {
    let count = tch::Cuda::device_count();
    let cuda = |index: usize| match index {
        index if (index as i64) < count => Ok(Device::Cuda(index)),
        _ if count == 0 => Err("no CUDA device is there; use cpu, or see doctor".to_owned()),
        _ => Err(format!("there are {count} CUDA devices, numbered from 0")),
    };
    match name {
        "auto" => Ok(if count > 0 { Device::Cuda(0) } else { Device::Cpu }),
        "cpu" => Ok(Device::Cpu),
        "cuda" => cuda(0),
        _ => match name.strip_prefix("cuda:").and_then(|index| index.parse().ok()) {
            Some(index) => cuda(index),
            None => Err("expected auto, cpu, cuda or cuda:N".to_owned()),
        },
    }
}

/// The program. Bad input exits with 2 and one line, a defect of ours with 70, an interruption with 130.
pub fn main(register: &Register) -> ExitCode {
    wait_without_spinning();
    // Before any question about CUDA is asked: afterwards it would be too late.
    let cuda = mask_torch::load_cuda();
    let level = if std::env::var_os("RUST_LOG").is_some_and(|level| level == "debug") {
        tracing::Level::DEBUG
    } else {
        tracing::Level::INFO
    };
    let log = tracing_subscriber::fmt().with_max_level(level).with_target(false).without_time();
    let _ = log.with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).try_init();
    let command = Cli::command().name(register.name).about(register.about);
    let cli = match command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            // One line, like every other error; without arguments clap gives the whole help.
            let text = error.to_string();
            let first = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect::<Vec<_>>().join(" ");
            let line = if first.starts_with("error:") { format!("{first}; see --help") } else { text };
            let _ = writeln!(std::io::stderr(), "{line}");
            return ExitCode::from(2);
        }
        Err(help) => {
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    let outcome = guarded(|| run(register, cli.verb, &cuda));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, whatever a message from below holds.
            let text = error.to_string().lines().map(str::trim).collect::<Vec<_>>().join(" ");
            let _ = writeln!(std::io::stderr(), "error: {text}");
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(70))
        }
    }
}

/// Runs `f`; a panic becomes a defect with its message and place. The trace is shown to those who set RUST_BACKTRACE.
fn guarded<R>(f: impl FnOnce() -> Result<R>) -> Result<R> {
    static LAST: Mutex<String> = Mutex::new(String::new());
    let usual = std::panic::take_hook();
    let trace = std::env::var_os("RUST_BACKTRACE").is_some();
    std::panic::set_hook(Box::new(move |info| {
        if let Ok(mut last) = LAST.lock() {
            let text = info.payload_as_str().unwrap_or("a panic without words");
            // libtorch appends its own trace to what it says.
            let first = text.split("\\nException raised").next().unwrap_or(text).replace('\n', " ");
            *last = info.location().map_or_else(|| first.clone(), |place| format!("{first}, at {}", place.file()));
        }
        if trace {
            usual(info);
        }
    }));
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or_else(|_| {
        let last = LAST.lock().map(|last| last.clone()).unwrap_or_default();
        Err(Error::Defect(format!("internal error: {last}")))
    })
}

/// With all cores busy, libgomp's spinning threads double a step. It reads its variable before `main`, so the program
/// starts itself once more with it set.
fn wait_without_spinning() {
    use std::os::unix::process::CommandExt;
    if std::env::var_os("OMP_WAIT_POLICY").is_none()
        && let Ok(program) = std::env::current_exe()
    {
        let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        // Returns only where it failed; then the program goes on as it is.
        let _ = std::process::Command::new(program).args(arguments).env("OMP_WAIT_POLICY", "passive").exec();
    }
}

fn run(register: &Register, verb: Verb, cuda: &mask_torch::CudaLibrary) -> Result<()> {
    match verb {
        Verb::List { json } => list::list(register, json),
        Verb::Pretrain(arguments) => arguments.run(register),
        Verb::Finetune(arguments) => arguments.run(register),
        Verb::Probe(arguments) => arguments.run(register),
        Verb::Eval(arguments) => arguments.run(register),
        Verb::Embed(arguments) => arguments.run(register),
        Verb::Show(arguments) => arguments.run(register),
        Verb::Masks(arguments) => arguments.run(register),
        Verb::Forward(arguments) => arguments.run(register),
        Verb::Table(arguments) => arguments.run(register),
        Verb::Export(arguments) => arguments.run(register),
        Verb::Convert(arguments) => arguments.run(register),
        Verb::Doctor => doctor::doctor(register, cuda),
        Verb::Bench(arguments) => arguments.run(register),
    }
}

/// Prints a line to standard output; a closed pipe is no error.
fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints a value as JSON.
fn say_json(value: &impl serde::Serialize) -> Result<()> {
    say(serde_json::to_string_pretty(value).map_err(|error| Error::Defect(error.to_string()))?);
    Ok(())
}

/// A recipe over real data where it is there, and over noise where it isn't.
fn session_or_noise(resolve: impl Fn() -> Result<Resolved>, device: Device) -> Result<(Session, Option<String>)> {
    let built = resolve().and_then(|mut resolved| {
        // Nothing is made here: models of stages are untrained, and their ids noise.
        resolved.made = imagine(&resolved.stages, &resolved.register)?;
        Session::build(resolved, device)
    });
    match built {
        Ok(session) => Ok((session, None)),
        Err(Error::File { path, problem }) if !path.exists() => {
            let note = format!("{}: {problem}; values are noise", path.display());
            Ok((Session::over([Split::Synthetic, Split::Synthetic], resolve()?, device)?, Some(note)))
        }
        Err(other) => Err(other),
    }
}

impl Pretrain {
    fn run(self, register: &Register) -> Result<()> {
        let Self { recipe, training } = self;
        training.run(register, &recipe, &|overrides| Resolved::read(register, &recipe, overrides))
    }
}

impl Training {
    /// Trains what `resolve` makes of the changes; `recipe` names the run.
    fn run(self, register: &Register, recipe: &Path, resolve: &dyn Fn(&Overrides) -> Result<Resolved>) -> Result<()> {
        let threads = self.compute.start();
        let device = self.compute.device;
        if self.dry_run {
            let (mut session, note) = session_or_noise(|| resolve(&self.changes.overrides()), device)?;
            session.init(register)?;
            // Without data their keys aren't known.
            let stages = if note.is_none() { plan_of_stages(&session.resolved)? } else { Vec::new() };
            for (key, value) in plan_of(&session)?.into_iter().chain(stages) {
                say(format_args!("{key:20} {value}"));
            }
            if let Some(note) = note {
                say(format_args!("{:20} {note}", "data"));
            }
            return Ok(());
        }
        watch_signals();
        let options = Options {
            overrides: self.changes.overrides(),
            out: self.out,
            resume: self.resume,
            stop_at: self.stop_at,
            device,
            threads,
        };
        let done = pretrain_resolved(register, resolve(&options.overrides)?, recipe, &options)?;
        if self.json {
            return say_json(&serde_json::json!({
                "folder": done.folder, "step": done.trained.step, "loss": done.trained.loss, "scores": done.scores,
                "finished": done.report.is_some(),
            }));
        }
        if let Some(loss) = done.trained.loss {
            say(format_args!("step {}: loss {loss:.4}", done.trained.step));
        }
        if done.trained.skipped > 0 {
            say(format_args!("{} samples could not be read and were skipped (named in the log)", done.trained.skipped));
        }
        measure::print_scores(&done.scores);
        match done.report {
            Some(report) => say(format_args!("report: {}", absolute(&report).display())),
            None => say(format_args!("stopped; go on with --resume --out {}", done.folder.display())),
        }
        Ok(())
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
