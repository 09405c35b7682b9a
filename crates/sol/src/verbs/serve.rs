//! `sol serve`: OpenAI's API for models, and a chat page.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::builder::NonEmptyStringValueParser;
use serde_json::json;
use sol_engine::{LanguageModel, open_tokenizer};
use sol_serve::{Options, Room, Server, Source};

use super::inspect::size;
use super::run::short_name;
use crate::common::{Draft, DraftArgs, How, Log, ModelArg, Output, bytes, note, print};
use crate::ctrl_c;

/// Arguments.
#[derive(clap::Args)]
#[command(
    after_help = "Answers POST /v1/chat/completions, /v1/completions and /v1/responses, whole and streamed, as OpenAI's clients \
    expect; POST /v1/embeddings (mean hidden states), /tokenize, /detokenize; GET /v1/models, /health, /ready, /metrics (Prometheus), \
    /version; /openapi.json describes them. GET / is a page to chat on: open it in a browser. The log has a line a request.

SIGTERM or Ctrl-C: new requests get 503, running ones are finished; a second one ends the program at once. There is no TLS: \
put a proxy in front of it.

Examples:
  sol serve -m smollm2
  SOL_API_KEY=secret sol serve -m model.gguf --host 0.0.0.0 --max-batch 32 --log json
  sol serve -m smollm2 -m other.gguf --keep 1 --kv-memory 2GB
  curl localhost:8000/v1/chat/completions -H 'content-type: application/json' \\
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'"
)]
pub(crate) struct Args {
    /// A directory, a .gguf file, org/repo[@revision][:file], or an alias (see `sol list`); may be given several times: the first
    /// is loaded at once, each other when a request names it
    #[arg(short, long, default_value = "smollm2")]
    model: Vec<String>,
    /// Models kept in memory, of which the one that was idle longest makes room for another; default: all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    keep: Option<u16>,
    #[command(flatten)]
    how: How,
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
    /// Memory of each model's KV cache: 2GB, 512MiB; default: the context of each request at a time, or what of it is free;
    /// a draft's is a part of it
    #[arg(long, value_name = "SIZE", value_parser = size)]
    kv_memory: Option<u64>,
    /// Name of the one model in requests; may be given several times; default: as after -m
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
    let names = distinct(&args.model)?;
    let several = names.len() > 1;
    if several && !args.served_model_name.is_empty() {
        bail!("--served-model-name names one model, but there are {}: leave it out", names.len());
    }
    let keep = args.keep.map_or(names.len(), usize::from).min(names.len());
    let loading = Loading {
        options: sol_engine::Options {
            sequences: Some(args.max_batch.into()),
            kv_memory: args.kv_memory,
            system_as_user: args.system_as_user,
            ..args.how.options()
        },
        keep,
        draft: args.draft.find(output)?,
        output: output.clone(),
    };
    let mut sources = Vec::new();
    for (name, model) in names.iter().zip(&args.model) {
        let path = ModelArg { model: model.clone() }.resolve(output)?;
        // What can not be loaded at all is said now.
        loading.options(&path)?;
        if several {
            loading.check_vocabulary(&path)?;
        }
        let names = if args.served_model_name.is_empty() { vec![name.clone()] } else { args.served_model_name.clone() };
        let loading = loading.clone();
        sources.push(Source::on_demand(names, move || loading.load(&path)));
    }
    let options = Options {
        names: if args.served_model_name.is_empty() { names } else { args.served_model_name },
        api_key: args.api_key,
        cors: args.cors,
        queue: args.max_queue as usize,
        drain: Duration::from_secs(args.drain.into()),
        ..Options::new("")
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(READERS)
        .enable_all()
        .build()
        .context("can not start threads")?;
    let ended = runtime.block_on(async {
        let server = Server::bind_many(&args.host, args.port, sources, keep, &options).await?;
        let signal = Signals::new()?;
        announce(&server, &options, several, args.max_batch, output)?;
        if server.run(signal.first(output)).await {
            return Ok(ExitCode::SUCCESS);
        }
        note(output, "sol: requests that still ran were cut off (--drain gives them longer)");
        Ok(ExitCode::FAILURE)
    });
    // Whoever still reads or loads something does so for nobody.
    runtime.shutdown_background();
    ended
}

/// How models are loaded.
#[derive(Clone)]
struct Loading {
    options: sol_engine::Options,
    keep: usize,
    draft: Option<Draft>,
    output: Output,
}

impl Loading {
    /// Refuses a model that has no tokenizer, or another one than the draft.
    fn check_vocabulary(&self, path: &Path) -> sol_engine::Result<()> {
        let tokenizer = open_tokenizer(path)?;
        self.draft.as_ref().map_or(Ok(()), |draft| draft.check(&tokenizer))
    }

    fn options(&self, path: &Path) -> sol_engine::Result<sol_engine::Options> {
        self.options.clone().for_serving(path, self.keep, self.draft.as_ref().and_then(Draft::path))
    }

    /// Opens a model, and says what is remarkable about it.
    fn load(&self, path: &Path) -> sol_engine::Result<LanguageModel> {
        let mut model = LanguageModel::open(path, self.options(path)?)?;
        model.tokenizer()?;
        for warning in model.warnings() {
            note(&self.output, &format!("warning: {warning}"));
        }
        if model.chat_template().is_err() {
            let consequence = "/v1/chat/completions is refused, /v1/completions works";
            note(&self.output, &format!("warning: this model has no chat template: {consequence}"));
        }
        if let Some(draft) = &self.draft {
            draft.help(&mut model, self.options.threads)?;
        }
        Ok(model)
    }
}

/// Names for models: the last parts of their paths, as many as tell them apart.
fn distinct(models: &[String]) -> Result<Vec<String>> {
    let name = |model: &String, parts: usize| {
        if short_name(model) == model {
            return model.clone();
        }
        let mut last: Vec<_> = Path::new(model).iter().rev().take(parts).map(|part| part.to_string_lossy()).collect();
        last.reverse();
        last.join("/")
    };
    let mut parts = vec![1; models.len()];
    loop {
        let names: Vec<String> = models.iter().zip(&parts).map(|(model, parts)| name(model, *parts)).collect();
        let again = |i: &usize| names.iter().filter(|name| **name == names[*i]).count() > 1;
        let same: Vec<usize> = (0..names.len()).filter(again).collect();
        let Some(&first) = same.first() else { return Ok(names) };
        if same.iter().all(|i| parts[*i] > Path::new(&models[*i]).iter().count()) {
            bail!("the model {} is given twice", models[first]);
        }
        same.iter().for_each(|i| parts[*i] += 1);
    }
}

/// Where it is, and what it is.
fn announce(server: &Server, options: &Options, several: bool, batch: u16, output: &Output) -> Result<()> {
    let (address, names) = (server.address(), &options.names);
    let Room { context, kv_tokens, kv_bytes } = server.room();
    let url = format!("http://{address}/v1");
    // What a browser on this machine opens where all addresses are listened on.
    let page = match address.ip() {
        ip if ip.is_unspecified() => format!("http://localhost:{}/", address.port()),
        _ => format!("http://{address}/"),
    };
    if !address.ip().is_loopback() && options.api_key.is_none() {
        note(output, "warning: whoever reaches this address can ask; SOL_API_KEY sets a key");
    }
    if output.json {
        let models = if several { &names[..] } else { &names[..1] };
        let line = json!({
            "url": url, "page": page, "model": names[0], "models": models, "context": context, "kv_tokens": kv_tokens,
            "kv_bytes": kv_bytes, "max_batch": batch,
        });
        return print(&line.to_string());
    }
    let cache = format!("KV cache of {kv_tokens} tokens ({})", bytes(kv_bytes));
    print(&format!("serving {} at {url}: context {context}, {batch} requests at a time, {cache}\nchat page: {page}", names[0]))?;
    if several {
        print(&format!("on demand: {}", names[1..].join(", ")))?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_models_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        for name in ["a", "b"] {
            std::fs::create_dir(path(name)).unwrap();
            std::fs::write(path(&format!("{name}/m.gguf")), "").unwrap();
        }
        let models = [path("a/m.gguf"), "smollm2".into(), path("b/m.gguf")];
        assert_eq!(distinct(&models).unwrap(), ["a/m.gguf", "smollm2", "b/m.gguf"]);
        assert_eq!(distinct(&models[..2]).unwrap(), ["m.gguf", "smollm2"]);
        assert!(distinct(&[path("a/m.gguf"), path("a/m.gguf")]).unwrap_err().to_string().contains("twice"));
        assert!(distinct(&["x".into(), "x".into()]).is_err());
    }
}
