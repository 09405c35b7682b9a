//! Checkpoint files through the public interface: right ones, wrong ones, damaged ones.

mod build;
#[cfg(target_os = "linux")]
mod changed;
mod golden;
mod hostile;
mod mutate;
