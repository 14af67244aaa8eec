//! The integration tests of the image crate, in one binary.

mod common;
mod golden;
mod laws;
mod pins;
mod worked;

#[path = "main/bad_input.rs"]
mod bad_input;
#[path = "main/cli.rs"]
mod cli;
#[path = "main/exchange.rs"]
mod exchange;
#[path = "main/faults.rs"]
mod faults;
#[path = "main/finetune.rs"]
mod finetune;
#[path = "main/guided.rs"]
mod guided;
#[path = "main/keys.rs"]
mod keys;
#[path = "main/resume.rs"]
mod resume;
#[path = "main/stages.rs"]
mod stages;
#[path = "main/table.rs"]
mod table;
