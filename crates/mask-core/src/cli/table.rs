//! `table`: arms, seeds and verdicts.

use clap::Args;

use super::{device, say};
use crate::run::Register;
use crate::table::{self, Options, Results, Scale, Table};
use crate::train::watch_signals;
use crate::{Error, Result};

#[derive(Args)]
pub(super) struct TableVerb {
    /// A file of experiments/<modality>/tables, without .yaml; with --check or --rewrite none = all
    #[arg(required_unless_present_any = ["check", "rewrite"])]
    name: Option<String>,
    /// How many seeds of every arm, 0, 1, ..., or a range as 3..6 [default: as the table says]
    #[arg(long, value_parser = seeds)]
    seeds: Option<Seeds>,
    /// Runs at once [default: cores / threads]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    jobs: Option<u32>,
    /// mini, paper or both
    #[arg(long, value_delimiter = ',', default_value = "mini", value_parser = scale)]
    scale: Vec<Scale>,
    /// Runs nothing: compares tables, results, pages and quoted figures; a line a difference
    #[arg(long, conflicts_with_all = ["seeds", "jobs", "out", "rewrite"])]
    check: bool,
    /// Runs nothing: makes results and pages anew from their own numbers and the table's file
    #[arg(long, conflicts_with_all = ["seeds", "jobs", "out"])]
    rewrite: bool,
    /// Folder of the results [default: experiments/<modality>/results]
    #[arg(long)]
    out: Option<std::path::PathBuf>,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Threads of a run
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: u32,
}

/// Seeds from one to below another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seeds([u64; 2]);

fn seeds(text: &str) -> Result<Seeds, String> {
    let ends = text.split_once("..").unwrap_or(("0", text));
    match (ends.0.parse(), ends.1.parse()) {
        (Ok(first), Ok(end)) if first < end && end - first <= 1000 => Ok(Seeds([first, end])),
        _ => Err("expected a number from 1 to 1000, or a range as 3..6".to_owned()),
    }
}

fn scale(text: &str) -> Result<Scale, String> {
    let found = Scale::ALL.into_iter().find(|scale| scale.word() == text);
    found.ok_or_else(|| "expected mini or paper".to_owned())
}

impl TableVerb {
    pub(super) fn run(self, register: &Register) -> Result<()> {
        if self.check {
            let lines = table::check(register, self.name.as_deref())?;
            for line in &lines {
                say(line);
            }
            return match lines.len() {
                0 => Ok(()),
                count => Err(Error::value("table --check", format!("{count} difference(s), a line each above"))),
            };
        }
        if self.rewrite {
            return self.anew(register);
        }
        let Some(name) = &self.name else { return Err(Error::value("table", "takes the name of a table")) };
        // Known before any run starts.
        device(&self.device).map_err(|problem| Error::value("--device", problem))?;
        let file = Table::read(register, &table::find(register, name)?)?;
        watch_signals();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = self.threads as usize;
        for scale in &self.scale {
            let options = Options {
                seeds: self.seeds.map(|Seeds([first, end])| (first..end).collect()),
                jobs: self.jobs.map_or((cores / threads).max(1), |jobs| jobs as usize),
                threads,
                device: self.device.clone(),
                out: self.out.clone(),
                command: self.command(register, name, *scale),
            };
            let (results, page) = table::run(register, &file, *scale, &options)?;
            print(&results);
            say(format_args!("table: {}", super::absolute(&page).display()));
        }
        Ok(())
    }

    fn anew(&self, register: &Register) -> Result<()> {
        let names = self.name.as_ref().map_or_else(|| table::tables(register), |name| vec![name.clone()]);
        for name in names {
            let file = Table::read(register, &table::find(register, &name)?)?;
            for scale in Scale::ALL {
                if let Some(page) = table::rewrite(register, &file, scale)? {
                    say(format_args!("table: {}", super::absolute(&page).display()));
                }
            }
        }
        Ok(())
    }

    /// The command that makes the same results, for their page.
    fn command(&self, register: &Register, name: &str, scale: Scale) -> String {
        let mut command = format!("cargo run --release -p {} -- table {name}", register.name);
        if let Some(Seeds([first, end])) = self.seeds {
            command += &if first == 0 { format!(" --seeds {end}") } else { format!(" --seeds {first}..{end}") };
        }
        if scale != Scale::Mini {
            command += &format!(" --scale {}", scale.word());
        }
        if self.threads != 1 {
            command += &format!(" --threads {}", self.threads);
        }
        command
    }
}

fn print(results: &Results) {
    for claim in &results.claims {
        say(format_args!("{}: {}", claim.name, claim.verdict.word()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_count_or_a_range() {
        assert_eq!(seeds("3"), Ok(Seeds([0, 3])));
        assert_eq!(seeds("3..6"), Ok(Seeds([3, 6])));
        for wrong in ["0", "", "6..3", "3..3", "-1", "1..", "0..2000", "x"] {
            assert!(seeds(wrong).is_err(), "{wrong}");
        }
    }
}
