//! Makes models available and prints where they are: `cargo run -p sol-hub --example pull -- MODEL...`

use sol_hub::{Hub, ModelRef, Progress, Result};

/// A line for each file, on the standard error.
struct Lines;

impl Progress for Lines {
    fn start(&self, file: &str, total: Option<u64>, already: u64) {
        let total = total.map_or("unknown".to_owned(), |total| total.to_string());
        eprintln!("{file}: {total} bytes, {already} of them here");
    }
    fn advance(&self, _bytes: u64) {}
    fn finish(&self, file: &str) {
        eprintln!("{file}: done");
    }
    fn note(&self, message: &str) {
        eprintln!("{message}");
    }
}

fn main() {
    if let Err(error) = pull() {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn pull() -> Result<()> {
    let hub = Hub::from_env()?;
    for model in std::env::args().skip(1) {
        println!("{}", hub.resolve(&ModelRef::parse(&model)?, &Lines)?.display());
    }
    Ok(())
}
