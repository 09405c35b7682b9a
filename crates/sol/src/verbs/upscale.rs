//! `sol upscale`: a deeper model from the layers of a base.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::{Value, json};
use sol_engine::Options;
use sol_forge::Error;
use sol_forge::upscale::{self, Base, Order, PUBLISHED_TV, Plan, Recipe, mergekit, picture, toml};
use sol_weights::DType;
use sol_weights::gguf::Existing;

use super::perplexity;
use crate::common::{Meter, ModelArg, Output, bytes, count, note, print};
use crate::ctrl_c::{self, CtrlC, Patience};

/// Arguments.
#[derive(clap::Args)]
#[command(after_help = "Recipes:\n  \
    dus         two copies, the first without its last --drop layers, the second without its first (SOLAR 10.7B)\n  \
    solar-pro   blocks of middle layers repeated, with skip connections around the copies (Solar Pro Preview);\n              \
    with --tv 1 the result computes what the base does; needs an engine that knows Solar\n  \
    interleave  middle layers repeated in place, what both copies add halved; runs wherever the base does\n  \
    identity    copies that add nothing among the layers (LLaMA-Pro); computes what the base does\n  \
    stack       whole copies on top of each other\n  \
    FILE.toml   slices of layers, factors on their parts, skip connections; --write-recipe writes one\n  \
    FILE.yaml   mergekit's passthrough\n\n\
    Examples:\n  \
    sol upscale -m phi-3-medium --recipe solar-pro --print\n  \
    sol upscale -m phi-3-medium -o solar --recipe solar-pro\n  \
    sol upscale -o deep.gguf --type f32 --recipe interleave --verify text.txt\n  \
    sol upscale -m phi-3-medium.gguf -o solar --recipe solar-pro --type bf16\n  \
    sol upscale -m llama -o llama-48 --recipe dus --drop 8")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Where to write: a GGUF file where this ends in .gguf, else a Hugging Face directory, whatever the base is
    #[arg(short, long, value_name = "OUT", required_unless_present_any = ["print", "write_recipe"])]
    out: Option<PathBuf>,
    /// dus, solar-pro, interleave, identity, stack, or a .toml or mergekit .yaml file
    #[arg(short, long, value_name = "RECIPE")]
    recipe: String,
    /// dus: layers dropped from each copy; default: a quarter
    #[arg(long, value_name = "M")]
    drop: Option<usize>,
    /// interleave, identity: layers of the result; default: 1.6 times the base's
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// interleave: layers repeated together; default: 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    block: Option<u16>,
    /// interleave: factor on o_proj and down_proj of both copies; default: 0.5
    #[arg(long, value_name = "FACTOR")]
    scale: Option<f32>,
    /// stack: copies; default: 2
    #[arg(long, value_name = "N")]
    times: Option<usize>,
    /// Recipes with skip connections: the share of the old state where one ends, for all or in training and inference;
    /// default: 0.9,0.8
    #[arg(long, value_name = "T[,T]", value_parser = tv)]
    tv: Option<Tv>,
    /// Store the weights as these; default: as in the base. Needed where a quantised base has to be scaled
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    float: Option<Float>,
    /// Begin another file where one would be larger
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size)]
    shard_size: u64,
    /// Show the plan and write nothing
    #[arg(long)]
    print: bool,
    /// Write the recipe as a .toml file, or as mergekit's .yaml
    #[arg(long, value_name = "FILE")]
    write_recipe: Option<PathBuf>,
    /// Read what was written again, and compare the perplexity of base and result on this text
    #[arg(long, value_name = "FILE")]
    verify: Option<PathBuf>,
    /// Replace a checkpoint that is there
    #[arg(long)]
    force: bool,
}

/// `--type`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Float {
    F32,
    F16,
    Bf16,
}

impl From<Float> for DType {
    fn from(float: Float) -> Self {
        match float {
            Float::F32 => Self::F32,
            Float::F16 => Self::F16,
            Float::Bf16 => Self::BF16,
        }
    }
}

/// `--tv`.
#[derive(Clone, Copy, Debug)]
struct Tv([f32; 2]);

fn tv(text: &str) -> Result<Tv, String> {
    let numbers: Result<Vec<f32>, _> = text.split(',').map(|number| number.trim().parse::<f32>()).collect();
    let tv = match numbers.as_deref() {
        Ok([t]) => [*t, *t],
        Ok([training, inference]) => [*training, *inference],
        _ => return Err("a number from 0 to 1, or two with a comma".into()),
    };
    if tv.iter().all(|t| (0.0..=1.0).contains(t)) { Ok(Tv(tv)) } else { Err("a share is a number from 0 to 1".into()) }
}

fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" | "K" => 1_000,
        "MB" | "M" => 1_000_000,
        "GB" | "G" => 1_000_000_000,
        _ => return Err("a size such as 5GB or 500MB".into()),
    };
    let number: f64 = digits.trim().parse().map_err(|_| "a size such as 5GB or 500MB")?;
    if number > 0.0 && number.is_finite() { Ok((number * unit as f64).max(1.0) as u64) } else { Err("a size above 0".into()) }
}

impl Args {
    /// The plan for a base of so many layers.
    fn plan(&self, base_layers: usize) -> Result<Plan> {
        let path = Path::new(&self.recipe);
        let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let read = || std::fs::read_to_string(path).with_context(|| format!("can not read the recipe {}", path.display()));
        let own = match ending.as_deref() {
            Some("toml") => Some(toml::read(&read()?, &name, base_layers)?),
            Some("yaml" | "yml") => Some(mergekit::read(&read()?, &name, base_layers)?),
            _ => None,
        };
        let allowed: &[&str] = match (self.recipe.as_str(), &own) {
            (_, Some(_)) => &["tv"],
            ("dus", _) => &["drop"],
            ("solar-pro", _) => &["tv"],
            ("interleave", _) => &["layers", "block", "scale"],
            ("identity", _) => &["layers"],
            ("stack", _) => &["times"],
            (other, _) => bail!("{}", unknown(other)),
        };
        let given = [
            ("drop", self.drop.is_some()),
            ("layers", self.layers.is_some()),
            ("block", self.block.is_some()),
            ("scale", self.scale.is_some()),
            ("times", self.times.is_some()),
            ("tv", self.tv.is_some()),
        ];
        if let Some((option, _)) = given.iter().find(|(option, given)| *given && !allowed.contains(option)) {
            bail!("--{option} has no meaning for the recipe {}", self.recipe);
        }
        let tv = self.tv.map_or(PUBLISHED_TV, |Tv(tv)| tv);
        if let Some(plan) = own {
            return Ok(if self.tv.is_some() { plan.with_tv(tv)? } else { plan });
        }
        let recipe = match self.recipe.as_str() {
            "dus" => Recipe::Dus { drop: self.drop },
            "solar-pro" => Recipe::SolarPro { tv },
            "interleave" => {
                Recipe::Interleave { layers: self.layers, block: self.block.map_or(1, usize::from), scale: self.scale }
            }
            "identity" => Recipe::Identity { layers: self.layers },
            _ => Recipe::Stack { times: self.times.unwrap_or(2) },
        };
        Ok(recipe.plan(base_layers)?)
    }

    fn write_recipe(&self, path: &Path, plan: &Plan, output: &Output) -> Result<()> {
        let text = match path.extension().and_then(|ending| ending.to_str()) {
            Some("toml") => toml::write(plan),
            Some("yaml" | "yml") => mergekit::write(plan, &self.model.model)?,
            _ => bail!("{}: a recipe ends in .toml, or in .yaml for mergekit", path.display()),
        };
        if path.exists() && !self.force {
            bail!("{} is there already and is not overwritten; --force replaces it", path.display());
        }
        std::fs::write(path, text).with_context(|| format!("can not write {}", path.display()))?;
        note(output, &format!("recipe written to {}", path.display()));
        Ok(())
    }
}

fn unknown(name: &str) -> String {
    const KNOWN: [&str; 5] = ["dus", "solar-pro", "interleave", "identity", "stack"];
    let distance = |other: &str| strsim::damerau_levenshtein(&name.to_lowercase(), other);
    let near = KNOWN.iter().min_by_key(|other| distance(other)).filter(|other| distance(other) <= 3.min(other.len() / 2));
    let meant = near.map_or_else(String::new, |near| format!("did you mean {near}? "));
    format!("there is no recipe {name}; {meant}known are {}, a .toml file and a mergekit .yaml file", KNOWN.join(", "))
}

pub(crate) fn run(args: Args, output: &Output) -> Result<ExitCode> {
    let path = args.model.resolve(output)?;
    let float = args.float.map(DType::from);
    let base = match &args.out {
        Some(out) if !args.print => Base::open_for(&path, out, float)?,
        _ => Base::open(&path)?,
    };
    for warning in base.warnings() {
        note(output, &format!("warning: {warning}"));
    }
    let plan = args.plan(base.layers())?;
    // The card goes to others, who do not have this machine's directories.
    let base_name = match path.file_name() {
        Some(name) if Path::new(&args.model.model).exists() => name.to_string_lossy().into_owned(),
        _ => args.model.model.clone(),
    };
    let order = Order { base: &base, base_name: &base_name, plan: &plan, float, shard_bytes: args.shard_size };
    if let Some(file) = &args.write_recipe {
        args.write_recipe(file, &plan, output)?;
    }
    if args.print {
        return show(&order, output);
    }
    let Some(out) = &args.out else { return Ok(ExitCode::SUCCESS) };
    let text = args.verify.as_deref().map(perplexity::read).transpose()?;
    let job = order.job()?;
    if order.becomes_solar() {
        warn_of_scaling(&base, output);
    }
    let existing = if args.force { Existing::Replace } else { Existing::Refuse };

    let ctrl_c = CtrlC::install(Patience::None)?;
    let stop = ctrl_c.interrupt();
    let mut meter = Meter::new(output, job.tensor_bytes() / MEGABYTE, "MB");
    let start = Instant::now();
    let written = job.write(out, existing, &|| stop.is_set(), &mut |bytes| meter.reach(bytes / MEGABYTE));
    let seconds = start.elapsed().as_secs_f64();
    drop(meter);
    let report = match written {
        Err(Error::Interrupted) => {
            note(
                output,
                "sol: interrupted; no model was written. Where shards were finished, the same command goes on with them",
            );
            return Ok(ExitCode::from(ctrl_c::EXIT_CODE));
        }
        Err(Error::Weights(error @ sol_weights::Error::Exists { .. })) => bail!("{error}; --force replaces it"),
        done => done?,
    };
    let verified = match &text {
        None => Value::Null,
        Some(text) => {
            let mut meter = Meter::new(output, job.tensor_bytes() / MEGABYTE, "MB");
            report.check(out, &|| stop.is_set(), &mut |bytes| meter.reach(bytes / MEGABYTE))?;
            drop(meter);
            let [base, result] = [&path, out].map(|path| perplexity::measure(path, text, Options::default(), None, stop, output));
            let (base, result) = (base?.0, result?.0);
            json!({ "tensors_read_again": report.tensors, "base_perplexity": base.value, "perplexity": result.value,
                    "error": result.error, "tokens": result.tokens, "same": base.value.to_bits() == result.value.to_bits() })
        }
    };

    let [before, after] = job.parameters();
    let speed = report.tensor_bytes as f64 / seconds;
    if output.json {
        let sources: Vec<Value> = report
            .sources
            .iter()
            .map(|source| json!({ "name": source.name, "bytes": source.bytes, "sha256": source.sha256 }))
            .collect();
        print(&serde_json::to_string_pretty(&json!({
            "path": out,
            "architecture": job.architecture(),
            "base_layers": plan.base_layers(),
            "layers": plan.layers().len(),
            "base_parameters": before,
            "parameters": after,
            "keeps_function": plan.keeps_function(),
            "tensors": report.tensors,
            "copied": report.copied,
            "bytes": report.tensor_bytes,
            "files": report.files,
            "reused_files": report.reused,
            "seconds": seconds,
            "bytes_per_second": speed,
            "sources": sources,
            "verify": verified,
        }))?)?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&format!(
        "{}: {}, {plan}, {} parameters become {}; {} in {seconds:.1} s ({}/s)",
        out.display(),
        job.architecture(),
        count(before),
        count(after),
        bytes(report.tensor_bytes),
        bytes(speed as u64),
    ))?;
    if report.reused > 0 {
        print(&format!("{} of {} files were there from a run that was interrupted", report.reused, report.files))?;
    }
    if let (Some(base), Some(result)) = (verified["base_perplexity"].as_f64(), verified["perplexity"].as_f64()) {
        let same = if verified["same"] == true { ", the same to the bit" } else { "" };
        print(&format!("all {} tensors read again; PPL of the base {base:.4}, of the result {result:.4}{same}", report.tensors))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What `--print` prints.
fn show(order: &Order<'_>, output: &Output) -> Result<ExitCode> {
    let plan = order.plan;
    // Also where it can not be written, which is said.
    let job = order.job();
    if output.json {
        let mut plan = upscale::json(plan);
        plan["architecture"] = job.as_ref().map_or(Value::Null, |job| job.architecture().into());
        plan["bytes"] = job.as_ref().map_or(Value::Null, |job| job.tensor_bytes().into());
        plan["problem"] = job.as_ref().err().map_or(Value::Null, |error| error.to_string().into());
        print(&serde_json::to_string_pretty(&plan)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let size = job.as_ref().map_or_else(
        |_| String::new(),
        |job| {
            let [before, after] = job.parameters().map(count);
            format!(", {before} parameters become {after}, {}", bytes(job.tensor_bytes()))
        },
    );
    print(&format!("{plan}{size}\n"))?;
    print(picture(plan, 100).trim_end())?;
    let keeps = if plan.keeps_function() { "It computes what the base does." } else { "It does not compute what the base does." };
    let needs = if plan.skips().is_empty() {
        "Runs wherever the base does.".to_owned()
    } else {
        format!("Needs an engine that knows Solar; bskcn_tv {:?}.", plan.tv())
    };
    print(&format!("\n{keeps} {needs}"))?;
    if let Err(error) = job {
        note(output, &format!("warning: {error}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// The published code reads a rotary scaling of two kinds only.
fn warn_of_scaling(base: &Base, output: &Output) {
    use sol_model::RopeScaling::{Linear, None};
    if !matches!(base.spec().rope.scaling, None | Linear { .. }) {
        note(output, "warning: the base scales its rotary embedding in a way that Solar's published code does not read");
    }
}

/// The unit of the bar.
const MEGABYTE: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_shares_are_read() {
        assert_eq!((size("5GB"), size("500mb"), size("1.5K"), size("7")), (Ok(5_000_000_000), Ok(500_000_000), Ok(1500), Ok(7)));
        assert!(["", "GB", "5TBB", "-1GB", "0", "inf"].iter().all(|text| size(text).is_err()));
        assert_eq!(tv("1").unwrap().0, [1.0, 1.0]);
        assert_eq!(tv("0.9, 0.8").unwrap().0, [0.9, 0.8]);
        assert!(["", "2", "0.1,0.2,0.3", "a", "NaN"].iter().all(|text| tv(text).is_err()));
    }
}
