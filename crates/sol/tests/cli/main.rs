//! The program from outside: arguments, pipes, signals and terminals in, what it prints and leaves behind out.

mod bench;
#[cfg(unix)]
mod conversation;
mod convert;
#[cfg(target_os = "linux")]
mod ends;
mod eval;
mod inspect;
mod logits;
mod machine;
mod models;
mod perplexity;
mod quantize;
#[cfg(target_os = "linux")]
mod quantize_trouble;
mod run;
#[cfg(unix)]
mod serve;
mod support;
mod synth;
mod tokenize;
mod upscale;
