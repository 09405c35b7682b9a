//! `sol serve`: OpenAI's API for a model.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::builder::NonEmptyStringValueParser;
use serde_json::json;
use sol_serve::{Options, Server};

use super::inspect::size;
use super::run::short_name;
use crate::common::{DraftArgs, Log, Output, RunOptions, bytes, note, open, print};
use crate::ctrl_c;

/// Arguments.
#[derive(clap::Args)]
#[command(
    after_help = "Answers POST /v1/chat/completions and /v1/completions, whole and streamed, as OpenAI's clients expect; GET \
    /v1/models, /health, /ready, /metrics (Prometheus), /version; POST /tokenize, /detokenize. The log has a line a request.

SIGTERM or Ctrl-C: new requests get 503, running ones are finished; a second one ends the program at once. There is no TLS: \
put a proxy in front of it.

Examples:
  sol serve -m smollm2
  SOL_API_KEY=secret sol serve -m model.gguf --host 0.0.0.0 --max-batch 32 --log json
  curl localhost:8000/v1/chat/completions -H 'content-type: application/json' \\
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'"
)]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunOptions,
    #[command(flatten)]
    draft: DraftArgs,
    /// Address to listen on; 0.0.0.0 for all
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port; 0 takes a free one, which is printed
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// What clients must send as a bearer token; better given as SOL_API_KEY, as others can see command lines
    #[arg(long, value_name = "KEY", env = "SOL_API_KEY", hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    api_key: Option<String>,
    /// Requests answered at a time; more wait
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=512))]
    max_batch: u16,
    /// Requests that wait; more are told to come again (503)
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    max_queue: u32,
    /// Memory of the KV cache: 2GB, 512MiB; default: the context of each request at a time, or what of it is free
    #[arg(long, value_name = "SIZE", value_parser = size)]
    kv_memory: Option<u64>,
    /// Name of the model in requests; may be given several times; default: as after -m
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    served_model_name: Vec<String>,
    /// An origin whose pages may ask, or *; may be given several times; default: none
    #[arg(long, value_name = "ORIGIN")]
    cors: Vec<String>,
    /// For models without a system prompt: put it in front of the first user message
    #[arg(long)]
    system_as_user: bool,
    /// How long running requests may take after SIGTERM
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain: u32,
    /// Form of the log
    #[arg(long, value_enum, default_value_t = Log::Text)]
    pub(crate) log: Log,
}

/// Threads for the work between connections and the engine: its own threads do the computing.
const WORKERS: usize = 2;
/// Prompts that are rendered and tokenised at a time.
const READERS: usize = 8;

pub(crate) fn run(args: Args, output: &Output) -> Result<ExitCode> {
    let path = args.run.model.resolve(output)?;
    let loading = sol_engine::Options {
        sequences: Some(args.max_batch.into()),
        kv_memory: args.kv_memory,
        system_as_user: args.system_as_user,
        ..args.run.options()
    };
    let loading = loading.for_serving(&path, 1)?;
    let kv_memory = loading.kv_memory.unwrap_or(0);
    let draft = args.draft.find(output)?;
    let mut model = open(&path, loading, output)?;
    if let Some(draft) = draft {
        draft.help(&mut model, args.run.threads)?;
    }
    model.tokenizer()?;
    if model.chat_template().is_err() {
        note(output, "warning: this model has no chat template: /v1/chat/completions is refused, /v1/completions works");
    }
    let given = short_name(&args.run.model.model).to_owned();
    let options = Options {
        names: if args.served_model_name.is_empty() { vec![given.clone()] } else { args.served_model_name },
        api_key: args.api_key,
        cors: args.cors,
        queue: args.max_queue as usize,
        drain: Duration::from_secs(args.drain.into()),
        ..Options::new(given)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(READERS)
        .enable_all()
        .build()
        .context("can not start threads")?;
    let context = model.context();
    runtime.block_on(async {
        let server = Server::bind(&args.host, args.port, model, &options).await?;
        let signal = Signals::new()?;
        announce(&server, &options, context, args.max_batch, kv_memory, output)?;
        if server.run(signal.first(output)).await {
            return Ok(ExitCode::SUCCESS);
        }
        note(output, "sol: requests that still ran were cut off (--drain gives them longer)");
        Ok(ExitCode::FAILURE)
    })
}

/// Where it is, and what it is.
fn announce(server: &Server, options: &Options, context: usize, batch: u16, kv: u64, output: &Output) -> Result<()> {
    let (address, kv_tokens, name) = (server.address(), server.kv_tokens(), &options.names[0]);
    let url = format!("http://{address}/v1");
    if !address.ip().is_loopback() && options.api_key.is_none() {
        note(output, "warning: whoever reaches this address can ask; SOL_API_KEY sets a key");
    }
    if output.json {
        let line = json!({
            "url": url, "model": name, "context": context, "kv_tokens": kv_tokens, "kv_bytes": kv, "max_batch": batch,
        });
        return print(&line.to_string());
    }
    let cache = format!("KV cache of {kv_tokens} tokens ({})", bytes(kv));
    print(&format!("serving {name} at {url}: context {context}, {batch} requests at a time, {cache}"))
}

/// The signals that end the program; caught as long as this lives.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            terminate: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
                .context("can not handle SIGTERM")?,
        })
    }

    async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = self.terminate.recv() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    }

    /// Waits for the first; the second ends the program.
    async fn first(mut self, output: &Output) {
        self.next().await;
        note(output, "sol: finishing what runs; once more ends it at once");
        tokio::spawn(async move {
            self.next().await;
            std::process::exit(i32::from(ctrl_c::EXIT_CODE));
        });
    }
}
