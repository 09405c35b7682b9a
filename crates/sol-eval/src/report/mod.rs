//! Finished runs: read from disk, shown as a page, compared with one another.
//!
//! A [`Run`] is a folder with a results file and, beside it, a file of samples for each task, as `sol eval --output DIR
//! --log-samples` or lm-evaluation-harness itself wrote them. Samples are read one at a time and never held whole. [`html`] makes
//! one self-contained page of a run; [`compare`] says what changed from one run to another, and whether by more than chance.

mod compare;
mod html;
mod run;
mod sample;
mod statistics;
mod view;

pub use compare::{Change, Comparison, Difference, Matched, Scope, Side, compare};
pub use html::{Limits, html, html_within};
pub use run::Run;
pub use sample::{Choice, Measure, Sample, Samples};
pub use statistics::Test;
