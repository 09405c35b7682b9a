//! `sol`: run, measure and build Solar Pro Preview and the models of its table.
//!
//! The binary is thin: each verb is a file that reads its arguments, calls the libraries and prints. Exit codes: 0 done, 1 it
//! failed (one sentence on stderr says why), 2 the command line makes no sense, 130 interrupted.

// Doc comments of arguments are help texts, in which brackets mean what they mean on a command line.
#![allow(rustdoc::broken_intra_doc_links)]

mod common;
mod ctrl_c;
mod verbs;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs, measures and builds Solar Pro Preview and the models of its table, on one machine.
#[derive(Parser)]
#[command(name = "sol", version, max_term_width = 110, propagate_version = true, disable_help_subcommand = true)]
#[command(
    after_help = "Examples:\n  sol run \"Please, introduce yourself.\"\n  sol run                          # a conversation\n  \
                        sol inspect solar-pro --fit 24GB\n  sol bench -m smollm2\n\nEnvironment: SOL_ISA=portable computes \
                        without AVX2, AVX-512 and AMX, SOL_ISA=avx2 without the latter two, SOL_ISA=avx512 without AMX, for comparison \
                        (the same numbers, slower). SOL_LOG=debug shows the log. HF_HOME, \
                        HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean to huggingface_hub."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,

    #[command(flatten)]
    output: common::Output,
}

#[derive(Subcommand)]
enum Verb {
    /// Chat: one answer when a prompt is given (or piped in), a conversation in the terminal when not
    Run(verbs::run::Args),
    /// Prefill and decode speed, as llama-bench reports them
    Bench(verbs::bench::Args),
    /// Benchmarks, as lm-evaluation-harness runs them
    Eval(Box<verbs::eval::Args>),
    /// What a checkpoint is, tensor by tensor, and what it will need
    Inspect(verbs::inspect::Args),
    /// Logits of given token ids, for comparison with other implementations
    Logits(verbs::logits::Args),
    /// OpenAI's API for one model or several: chat and plain completions for many at a time
    Serve(Box<verbs::serve::Args>),
    /// Text from stdin to token ids, or back
    Tokenize(verbs::tokenize::Args),
    /// Perplexity of a text, as llama-perplexity defines it
    Perplexity(verbs::perplexity::Args),
    /// A checkpoint in the other format: Hugging Face to GGUF or back, LoRA adapters merged on the way
    Convert(verbs::convert::Args),
    /// Which columns of a model's matrices matter on a text, for quantize
    Imatrix(verbs::imatrix::Args),
    /// A checkpoint in fewer bits, as llama-quantize's types
    Quantize(verbs::quantize::Args),
    /// A checkpoint with the shapes of a published model and random weights, to measure with
    Synth(verbs::synth::Args),
    /// A deeper model from the layers of a base
    Upscale(Box<verbs::upscale::Args>),
    /// Which layer of one model comes from which of another
    Lineage(verbs::lineage::Args),
    /// Obtain a model
    Pull(verbs::models::PullArgs),
    /// Models on this machine
    List(verbs::models::ListArgs),
    /// Remove a model from this machine
    Rm(verbs::models::RmArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    common::init(&cli.output, if let Verb::Serve(args) = &cli.verb { Some(args.log) } else { None });
    let output = &cli.output;
    let result = match cli.verb {
        Verb::Run(args) => verbs::run::run(args, output),
        Verb::Bench(args) => verbs::bench::run(args, output),
        Verb::Eval(args) => verbs::eval::run(*args, output),
        Verb::Inspect(args) => verbs::inspect::run(args, output),
        Verb::Logits(args) => verbs::logits::run(args, output),
        Verb::Serve(args) => verbs::serve::run(*args, output),
        Verb::Tokenize(args) => verbs::tokenize::run(args, output),
        Verb::Perplexity(args) => verbs::perplexity::run(args, output),
        Verb::Convert(args) => verbs::convert::run(args, output),
        Verb::Imatrix(args) => verbs::imatrix::run(args, output),
        Verb::Quantize(args) => verbs::quantize::run(args, output),
        Verb::Synth(args) => verbs::synth::run(args, output),
        Verb::Upscale(args) => verbs::upscale::run(*args, output),
        Verb::Lineage(args) => verbs::lineage::run(args, output),
        Verb::Pull(args) => verbs::models::pull(args, output),
        Verb::List(args) => verbs::models::list(args, output),
        Verb::Rm(args) => verbs::models::rm(args, output),
    };
    common::exit_code(result)
}
