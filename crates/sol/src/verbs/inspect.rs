//! `sol inspect`: what a checkpoint is and what it will need, from its headers alone.

mod decoder;
mod text;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use sol_compute::KvType;
use sol_cpu::Cpu;
use sol_engine::{Bound, Error, Fit as Here, Limits, Need};
use sol_hub::{Hub, ModelRef, Silent};
use sol_model::memory::{self, Memory, TypeShare};
use sol_model::{Description, LoadOptions, Model};
use sol_weights::{Checkpoint, DType, Format, Metadata, gguf};
use tempfile::TempDir;

use crate::common::{Kv, ModelArg, Output, bytes, count, note, print, sentence};
use text::Text;

/// Arguments.
#[derive(clap::Args)]
#[command(after_help = "Headers are read, not weights: 44 GB take no longer than 44 MB. With -v, the metadata or config is \
    shown as well.\n\nExamples:\n  sol inspect DIR --tensors\n  \
    sol inspect model.gguf --ctx 4096 --batch 8 --fit 24GB")]
pub(crate) struct Args {
    /// The same as --model
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    which: Option<String>,
    #[command(flatten)]
    model: ModelArg,
    /// Every tensor with type, shape and size
    #[arg(long)]
    tensors: bool,
    /// Memory for sequences of this many tokens; default: the model's context
    #[arg(short, long, value_parser = clap::value_parser!(u64).range(1..))]
    ctx: Option<u64>,
    /// Memory for this many sequences at a time
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Number format of the KV cache; default: f32 for unquantised weights, else f16
    #[arg(long, value_enum)]
    kv: Option<Kv>,
    /// Whether so much memory is enough, as it is and quantised: 80GB, 24GiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    fit: Option<u64>,
}

/// "24GB" (powers of ten) or "16GiB" (of two).
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no size; write 80GB, 24GiB or a number of bytes");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(wrong()),
    };
    let size = number * unit;
    if size >= 1.0 { Ok(size as u64) } else { Err(wrong()) }
}

pub(crate) fn run(args: Args, output: &Output) -> Result<ExitCode> {
    let model = ModelArg { model: args.which.clone().unwrap_or_else(|| args.model.model.clone()) };
    let source = Source::find(&model, output)?;
    let checkpoint = &source.checkpoint;
    let text = Text::of(checkpoint);
    let types = memory::weights_by_type(checkpoint);

    // What can be said of a checkpoint that can not run is said all the same.
    let description = sol_model::describe(checkpoint);
    let (described, mut problem) = match description {
        Ok(description) => (Some(description), None),
        Err(error) => (None, Some(anyhow::Error::from(error))),
    };
    if let Some(Description { warnings, .. }) = &described {
        warnings.iter().for_each(|w| note(output, &format!("warning: {w}")));
        problem = check(checkpoint).err();
    }
    let needs = match &described {
        Some(description) => Some(Needs::new(&args, description, checkpoint)?),
        None => None,
    };

    let report = Report { source: &source, checkpoint, text, types, described: described.as_ref(), needs };
    if output.json {
        print(&serde_json::to_string_pretty(&report.json(args.tensors, problem.as_ref()))?)?;
    } else {
        let all = output.verbose > 0 || report.described.is_none();
        print(report.text(args.tensors, all).trim_end())?;
    }
    problem.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// Finds and checks every tensor as loading does; none is read but the norms. F8 weights, which loading converts, are left
/// unchecked.
fn check(checkpoint: &Arc<Checkpoint>) -> Result<()> {
    if checkpoint.tensors().all(|t| t.dtype != DType::F8E4M3) {
        Model::load(Arc::new(Cpu::new(Some(1))?), Arc::clone(checkpoint), LoadOptions::default())?;
    }
    Ok(())
}

/// What is inspected.
struct Source {
    checkpoint: Arc<Checkpoint>,
    /// What to call it.
    name: String,
    /// Headers of a model that is at the hub only, for as long as they are read.
    outline: Option<TempDir>,
}

impl Source {
    /// A model that is not on this machine is not fetched for a look at it: its headers are enough. The default model is:
    /// it is small, and pip would have to fetch it whole.
    fn find(model: &ModelArg, output: &Output) -> Result<Self> {
        let reference = ModelRef::parse(&model.model)?;
        let hub = Hub::from_env()?;
        let (path, outline) = match (&reference, hub.cached(&reference)) {
            (_, Some(path)) => (path, None),
            (ModelRef::Repo { .. }, None) => {
                let dir = tempfile::tempdir().context("can not make a temporary directory for the headers")?;
                note(output, &format!("{} is not on this machine: asking the hub for its headers", model.model));
                let path = hub.outline(&reference, dir.path(), &Silent)?;
                (path, Some(dir))
            }
            _ => (model.resolve(output)?, None),
        };
        let name = if outline.is_some() { reference.to_string() } else { path.display().to_string() };
        Ok(Self { checkpoint: Arc::new(Checkpoint::open(&path)?), name, outline })
    }

    /// The files, by their names in the repository where they are only there.
    fn files(&self) -> Vec<&Path> {
        let root = self.outline.as_ref().map_or(Path::new(""), TempDir::path);
        self.checkpoint.files().iter().map(|file| file.strip_prefix(root).unwrap_or(file)).collect()
    }
}

/// Number formats of the KV cache, the smallest first.
const KV_TYPES: [KvType; 3] = [KvType::Q8_0, KvType::F16, KvType::F32];

/// What running takes.
struct Needs {
    context: usize,
    sequences: usize,
    kv_type: KvType,
    /// In each of [`KV_TYPES`].
    kv_per_token: [u64; 3],
    parameters: u64,
    active: u64,
    memory: Memory,
    /// What this process may use, where the system says it, and what that is enough for.
    here: Option<(Bound, &'static str)>,
    fit: Option<Fit>,
}

/// Whether it fits a budget: as it is, and in each quantisation.
struct Fit {
    budget: u64,
    quantised: Vec<(&'static str, Memory, bool)>,
}

impl Needs {
    fn new(args: &Args, Description { spec, .. }: &Description, checkpoint: &Checkpoint) -> Result<Self> {
        let context = match args.ctx {
            None => spec.context,
            Some(asked) => usize::try_from(asked).unwrap_or(usize::MAX),
        };
        if context > spec.context {
            return Err(Error::ContextTooLong { asked: context, context: spec.context }.into());
        }
        let kv_type = args.kv.map_or_else(|| sol_model::natural_kv_type(checkpoint), Into::into);
        let sequences = args.batch as usize;
        let need = Need::new(checkpoint, spec, context, sequences, kv_type);
        let limits = Limits::now();
        let here = match limits.fit(&need) {
            Here::Whole => limits.tightest().map(|bound| (bound.clone(), "fits")),
            Here::Rereads(bound) => Some((bound.clone(), "rereads")),
            Here::No(bound) => Some((bound.clone(), "too little")),
        };
        Ok(Self {
            context,
            sequences,
            kv_type,
            kv_per_token: KV_TYPES.map(|kv| memory::kv_bytes_per_token(spec, kv)),
            parameters: memory::parameters(spec),
            active: memory::active_parameters(spec),
            memory: need.memory,
            here,
            fit: args.fit.map(|budget| Fit { budget, quantised: memory::fits(spec, budget, context, sequences) }),
        })
    }

    fn fits_as_it_is(&self, fit: &Fit) -> bool {
        self.memory.total() <= fit.budget
    }
}

/// All that is known.
struct Report<'a> {
    source: &'a Source,
    checkpoint: &'a Checkpoint,
    text: Text,
    types: Vec<TypeShare>,
    described: Option<&'a Description>,
    needs: Option<Needs>,
}

impl Report<'_> {
    fn format(&self) -> String {
        match self.checkpoint.metadata() {
            Metadata::Gguf(meta) => format!("GGUF v{}", meta.version()),
            Metadata::Hf(_) => "safetensors".into(),
        }
    }

    /// Bytes and elements of all tensors.
    fn totals(&self) -> (u64, u64) {
        (self.types.iter().map(|t| t.bytes).sum(), self.types.iter().map(|t| t.elements).sum())
    }

    fn text(&self, tensors: bool, metadata: bool) -> String {
        let mut out = Page::default();
        let files = self.checkpoint.files();
        out.line(&self.source.name);
        out.row("format", &format!("{}, {} file{}", self.format(), files.len(), if files.len() == 1 { "" } else { "s" }));
        if let Some(name) = self.name() {
            out.row("name", name);
        }
        out.row("tokenizer", self.text.tokenizer.as_deref().unwrap_or("none"));
        out.row("chat template", &self.text.template.describe());

        if let Some(Description { spec, .. }) = self.described {
            out.title("Decoder");
            for (label, lines) in decoder::rows(spec) {
                for (i, line) in lines.iter().enumerate() {
                    out.row(if i == 0 { label } else { "" }, line);
                }
            }
        }

        let (weights, elements) = self.totals();
        out.title("Weights");
        let parameters = |n: u64| format!("{} ({})", count(n), grouped(n));
        match &self.needs {
            None => out.row("elements", &parameters(elements)),
            Some(needs) => {
                out.row("parameters", &parameters(needs.parameters));
                if needs.active != needs.parameters {
                    out.row("active", &format!("{} for each token", parameters(needs.active)));
                }
                if elements != needs.parameters {
                    out.row("elements", &format!("{} in the file's tensors", grouped(elements)));
                }
            }
        }
        out.row("bytes", &format!("{} ({})", bytes(weights), grouped(weights)));
        out.row("bits per weight", &bits_per_weight(weights, elements).map_or("-".into(), |bits| format!("{bits:.2}")));
        for (i, share) in self.types.iter().enumerate() {
            let tensors = format!("{} tensor{}", share.tensors, if share.tensors == 1 { "" } else { "s" });
            out.row(if i == 0 { "types" } else { "" }, &format!("{:<8} {:>9} in {tensors}", share.dtype, bytes(share.bytes)));
        }

        if let Some(needs) = &self.needs {
            self.memory_text(needs, &mut out);
        }
        if metadata {
            out.title("Metadata");
            match self.checkpoint.metadata() {
                Metadata::Gguf(meta) => meta.iter().for_each(|(key, value)| out.line(&format!("  {key} = {}", shortened(value)))),
                Metadata::Hf(hf) => {
                    let config = hf.config.as_object().into_iter().flatten();
                    config.for_each(|(key, value)| out.line(&format!("  {key} = {value}")));
                }
            }
        }
        if tensors {
            out.title("Tensors");
            let width = self.checkpoint.tensors().map(|t| t.name.len()).max().unwrap_or(0);
            for t in self.checkpoint.tensors() {
                let shape = t.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(" x ");
                out.line(&format!("  {:<width$}  {:<7} {:>9}  {shape}", t.name, t.dtype, bytes(t.byte_len() as u64)));
            }
        }
        out.0
    }

    fn memory_text(&self, needs: &Needs, out: &mut Page) {
        let of =
            format!("{} sequence{} of {} tokens", needs.sequences, if needs.sequences == 1 { "" } else { "s" }, needs.context);
        out.title(&format!("Memory for {of}"));
        out.row("weights", &bytes(needs.memory.weights));
        let each = KV_TYPES.iter().zip(needs.kv_per_token).map(|(kv, bytes)| format!("{} in {}", grouped(bytes), kv.name()));
        let each = format!("a token takes {}", each.collect::<Vec<_>>().join(", "));
        out.row("KV cache", &format!("{} in {} ({each})", bytes(needs.memory.kv), needs.kv_type.name()));
        out.row("work", &format!("{} (activations)", bytes(needs.memory.work)));
        out.row("program", &format!("{} (with its tokenizer, about)", bytes(needs.memory.program)));
        out.row("in all", &bytes(needs.memory.total()));
        if let Some((bound, verdict)) = &needs.here {
            let verdict = match *verdict {
                "fits" => "it fits",
                "rereads" => "weights would be read from disk again for every pass",
                _ => "it does not fit",
            };
            out.row("available here", &format!("{bound}: {verdict}"));
        }

        let Some(fit) = &needs.fit else { return };
        out.title(&format!("Fits {}?", bytes(fit.budget)));
        let verdict = |memory: &Memory, fits: bool| {
            let word = if fits { "yes" } else { "no" };
            format!(
                "{word:<3}  {:>8} = {:>8} of weights + {} of cache and rest",
                bytes(memory.total()),
                bytes(memory.weights),
                bytes(memory.total() - memory.weights)
            )
        };
        out.row("as it is", &verdict(&needs.memory, needs.fits_as_it_is(fit)));
        for (name, memory, fits) in &fit.quantised {
            out.row(name, &verdict(memory, *fits));
        }
        out.line("  (quantised sizes are those of usual mixtures, within a few percent, with a KV cache in f16)");
    }

    fn name(&self) -> Option<&str> {
        match self.checkpoint.metadata() {
            Metadata::Gguf(meta) => meta.str("general.name"),
            Metadata::Hf(hf) => hf.config.get("_name_or_path").and_then(Value::as_str).filter(|name| !name.is_empty()),
        }
    }

    fn json(&self, tensors: bool, problem: Option<&anyhow::Error>) -> Value {
        let (weights, elements) = self.totals();
        let types = self.types.iter();
        let template = &self.text.template;
        let mut value = json!({
            "model": self.source.name,
            "here": self.source.outline.is_none(),
            "format": match self.checkpoint.format() { Format::Gguf => "gguf", Format::Safetensors => "safetensors" },
            "files": self.source.files(),
            "name": self.name(),
            "tokenizer": self.text.tokenizer,
            "chat_template": !matches!(template, text::Template::None),
            "system_prompt": matches!(template, text::Template::Yes { system: true }),
            "decoder": self.described.map(|d| decoder::json(&d.spec)),
            "warnings": self.described.map_or(&[][..], |d| &d.warnings),
            "elements": elements,
            "weight_bytes": weights,
            "bits_per_weight": bits_per_weight(weights, elements),
            "types": types.map(|t| json!({ "type": t.dtype.name(), "tensors": t.tensors, "elements": t.elements, "bytes": t.bytes }))
                .collect::<Vec<_>>(),
            "metadata": metadata_json(self.checkpoint.metadata()),
            "error": problem.map(sentence),
        });
        let object = value.as_object_mut().expect("made as one");
        if let Some(needs) = &self.needs {
            let each = KV_TYPES.iter().zip(needs.kv_per_token);
            let kv_per_token: Map<_, _> = each.map(|(kv, bytes)| (kv.name().to_owned(), bytes.into())).collect();
            object.insert("parameters".into(), needs.parameters.into());
            object.insert("active_parameters".into(), needs.active.into());
            object.insert("kv_bytes_per_token".into(), kv_per_token.into());
            let mut memory = memory_json(&needs.memory);
            let about = json!({ "ctx": needs.context, "batch": needs.sequences, "kv": needs.kv_type.name() });
            memory.as_object_mut().expect("made as one").extend(about.as_object().expect("likewise").clone());
            object.insert("memory".into(), memory);
            let here = needs
                .here
                .as_ref()
                .map(|(b, verdict)| json!({ "verdict": verdict, "free": b.free, "limit": b.limit, "by": b.by }));
            object.insert("available".into(), here.into());
            object.insert("fit".into(), needs.fit.as_ref().map(|fit| fit_json(needs, fit)).into());
        }
        if tensors {
            let list = self
                .checkpoint
                .tensors()
                .map(|t| json!({ "name": t.name, "type": t.dtype.name(), "shape": t.shape, "bytes": t.byte_len() }));
            object.insert("tensors".into(), list.collect());
        }
        value
    }
}

fn memory_json(memory: &Memory) -> Value {
    json!({ "weights": memory.weights, "kv_cache": memory.kv, "work": memory.work, "program": memory.program, "total": memory.total() })
}

fn fit_json(needs: &Needs, fit: &Fit) -> Value {
    let entry =
        |(name, memory, fits): &(&str, Memory, bool)| json!({ "name": name, "memory": memory_json(memory), "fits": fits });
    json!({
        "budget": fit.budget,
        "as_it_is": needs.fits_as_it_is(fit),
        "quantised": fit.quantised.iter().map(entry).collect::<Vec<_>>(),
    })
}

/// `config.json`, or a GGUF file's entries; arrays of these are vocabularies and the like, and only described.
fn metadata_json(metadata: &Metadata) -> Value {
    match metadata {
        Metadata::Hf(hf) => hf.config.clone(),
        Metadata::Gguf(meta) => meta.iter().map(|(key, value)| (key.to_owned(), scalar_json(meta, key, value))).collect(),
    }
}

fn scalar_json(meta: &gguf::Metadata, key: &str, value: &gguf::Value) -> Value {
    match value {
        gguf::Value::Bool(b) => (*b).into(),
        gguf::Value::String(s) => s.as_str().into(),
        gguf::Value::F32(x) => (*x).into(),
        gguf::Value::F64(x) => (*x).into(),
        gguf::Value::Array(array) => array.to_string().into(),
        _ => meta.i64(key).map(Value::from).or(meta.u64(key).map(Value::from)).into(),
    }
}

/// A metadata value on one line.
fn shortened(value: &gguf::Value) -> String {
    const MOST: usize = 100;
    let text = value.to_string().replace('\n', "\\n");
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}... ({} characters)", &text[..end], text.chars().count()),
        None => text,
    }
}

fn bits_per_weight(bytes: u64, elements: u64) -> Option<f64> {
    (elements > 0).then(|| 8.0 * bytes as f64 / elements as f64)
}

/// "22,140,032,000".
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(|g| String::from_utf8_lossy(g));
    groups.collect::<Vec<_>>().join(",")
}

/// Text in sections.
#[derive(Default)]
struct Page(String);

impl Page {
    fn line(&mut self, text: &str) {
        self.0 += text;
        self.0 += "\n";
    }

    fn title(&mut self, text: &str) {
        self.line("");
        self.line(text);
    }

    fn row(&mut self, label: &str, text: &str) {
        self.line(&format!("  {label:<16} {text}"));
    }
}

#[cfg(test)]
mod tests {
    use super::{grouped, size};

    #[test]
    fn sizes_are_read_in_either_unit() {
        assert_eq!(size("24GB"), Ok(24_000_000_000));
        assert_eq!(size("1.5 gib"), Ok(3 << 29));
        assert_eq!(size("80g"), Ok(80_000_000_000));
        assert_eq!(size("1000"), Ok(1000));
        for bad in ["", "GB", "24XB", "-1GB", "0", "1.2.3GB", "nan"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn long_numbers_are_grouped() {
        assert_eq!([7, 999, 1000, 22_140_032_000].map(grouped), ["7", "999", "1,000", "22,140,032,000"]);
    }
}
