//! What a run leaves for people to look at: TensorBoard events, charts, contact sheets and one self-contained page.
//!
//! Nothing here knows tensors: everything is drawn from the files of a run folder (`metrics.jsonl`, `timing.jsonl`,
//! `recipe.yaml`) and from plain pictures, during a run or long after it.

mod axis;
mod bars;
mod chart;
mod compare;
mod dots;
mod events;
mod font;
mod metrics;
mod page;
mod sheet;
mod svg;
mod view;

pub use bars::{Bar, BarChart};
pub use chart::{Line, LineChart};
pub use dots::{DotChart, DotRow};
pub use events::Events;
pub use metrics::Metrics;
pub use page::{Baseline, Picture, Report, Run, score_title};
pub use sheet::{Panel, contact_sheet, png};
