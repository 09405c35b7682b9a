//! Checkpoint files through the public interface: right ones, wrong ones, damaged ones.

mod build;
mod golden;
mod hostile;
mod mutate;
