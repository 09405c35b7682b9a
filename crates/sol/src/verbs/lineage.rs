//! `sol lineage`: which layer of one model comes from which of another.

use std::fs::OpenOptions;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sol_forge::Error;
use sol_forge::lineage::{DEFAULT_PARTS, Lineage, Origin, colour, lineage};
use sol_forge::upscale::{Base, Part};

use crate::common::{Meter, ModelArg, Output, note, print};
use crate::ctrl_c::{self, CtrlC, Patience};

/// Arguments.
#[derive(clap::Args)]
#[command(
    after_help = "The similarity is the mean cosine of matrices of the layers: 1 for copies (also scaled ones), near 0 for \
    layers that have nothing to do with each other. Rows are B's layers, columns A's.\n\nExamples:\n  \
    sol lineage base.gguf deep.gguf\n  sol lineage phi-3-medium solar-pro --svg lineage.svg\n  \
    sol lineage a b --parts o_proj,down_proj,v_proj --json"
)]
pub(crate) struct Args {
    /// The model that layers may come from: a directory, a .gguf file, org/repo[@revision][:file], or an alias
    a: String,
    /// The model whose layers are asked about
    b: String,
    /// Matrices to compare: o_proj, down_proj, v_proj, gate_proj, up_proj; default: the first two
    #[arg(long, value_name = "PART[,PART]", value_delimiter = ',', value_parser = part)]
    parts: Vec<Part>,
    /// Write the heat map as a picture
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write the heat map as a picture
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
    /// Replace pictures that are there
    #[arg(long)]
    force: bool,
}

/// Queries and keys are in different orders in different formats; norms are too alike.
const COMPARABLE: [&str; 5] = ["o_proj", "down_proj", "v_proj", "gate_proj", "up_proj"];

fn part(name: &str) -> Result<Part, String> {
    let known = || format!("known are {}", COMPARABLE.join(", "));
    Part::named(name).filter(|part| COMPARABLE.contains(&part.name())).ok_or_else(known)
}

pub(crate) fn run(args: Args, output: &Output) -> Result<ExitCode> {
    for file in [&args.svg, &args.png].into_iter().flatten() {
        if file.exists() && !args.force {
            bail!("{} is there already and is not overwritten; --force replaces it", file.display());
        }
    }
    let open = |model: &String| -> Result<Base> {
        let base = Base::open(&ModelArg { model: model.clone() }.resolve(output)?)?;
        base.warnings().iter().for_each(|warning| note(output, &format!("warning: {warning}")));
        Ok(base)
    };
    let (a, b) = (open(&args.a)?, open(&args.b)?);
    let parts = if args.parts.is_empty() { DEFAULT_PARTS.to_vec() } else { args.parts.clone() };

    let ctrl_c = CtrlC::install(Patience::None)?;
    let stop = ctrl_c.interrupt();
    let mut meter = Meter::new(output, b.layers() as u64, "layers");
    let found = lineage(&a, &b, &parts, &|| stop.is_set(), &mut |layers| meter.reach(layers as u64));
    drop(meter);
    let found = match found {
        Err(Error::Interrupted) => {
            note(output, "sol: interrupted");
            return Ok(ExitCode::from(ctrl_c::EXIT_CODE));
        }
        found => found?,
    };
    if let Some(file) = &args.svg {
        let svg = found.svg([&args.a, &args.b]);
        picture(file, args.force, |out| Ok(out.write_all(svg.as_bytes())?))?;
    }
    if let Some(file) = &args.png {
        picture(file, args.force, |out| Ok(found.png(out)?))?;
    }

    let origins = found.origins();
    if output.json {
        print(&serde_json::to_string_pretty(&report(&args, &found, &origins, &b, &parts))?)?;
        return Ok(ExitCode::SUCCESS);
    }
    print(heat_map(&found, std::io::stdout().is_terminal()).trim_end())?;
    print("")?;
    for run in runs(&origins) {
        print(&run)?;
    }
    let links: Vec<String> = b.spec().skip_links().iter().map(|(from, to, _)| format!("{from} to {to}")).collect();
    if !links.is_empty() {
        print(&format!("skip connections of B: {}", links.join(", ")))?;
    }
    if found.is_sampled() {
        note(output, "of large matrices evenly spaced rows were compared, a million numbers each: cosines are good to 0.001");
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a file that is to be new, or replaced.
fn picture(file: &Path, force: bool, write: impl FnOnce(&mut BufWriter<std::fs::File>) -> Result<()>) -> Result<()> {
    let shown = || format!("can not write {}", file.display());
    let mut options = OpenOptions::new();
    let options = if force { options.create(true).truncate(true) } else { options.create_new(true) };
    let mut out = BufWriter::new(options.write(true).open(file).with_context(shown)?);
    write(&mut out).and_then(|()| Ok(out.flush()?)).with_context(shown)
}

fn report(args: &Args, found: &Lineage, origins: &[Origin], b: &Base, parts: &[Part]) -> Value {
    // JSON has no NaN.
    let number = |value: f32| if value.is_nan() { Value::Null } else { json!((f64::from(value) * 1e6).round() / 1e6) };
    let [of_a, of_b] = found.layers();
    let matrix: Vec<Vec<Value>> =
        (0..of_b).map(|layer| found.row(layer).iter().map(|cosine| number(*cosine)).collect()).collect();
    let layers: Vec<Value> = origins
        .iter()
        .map(|origin| {
            json!({ "layer": origin.layer, "source": origin.source, "cosine": number(origin.cosine),
                    "second": number(origin.second), "scale": number(origin.ratio), "silent": origin.silent })
        })
        .collect();
    json!({
        "a": args.a, "b": args.b, "layers_of_a": of_a, "layers_of_b": of_b,
        "parts": parts.iter().map(|part| part.name()).collect::<Vec<_>>(),
        "sampled": found.is_sampled(), "layers": layers, "cosines": matrix,
        "skips": b.spec().skip_links().iter().map(|(from, to, _)| [*from, *to]).collect::<Vec<_>>(),
    })
}

/// One line for each layer of B, one or two characters for each of A.
fn heat_map(found: &Lineage, colours: bool) -> String {
    const SHADES: [char; 6] = [' ', '.', ':', '-', '+', '#'];
    let [a, b] = found.layers();
    let wide = if a <= 48 { 2 } else { 1 };
    let mut axis = String::from("      ");
    for layer in (0..a).step_by(10) {
        axis += &format!("{layer:<width$}", width = 10 * wide);
    }
    let mut text = format!("{}\n", axis.trim_end());
    for layer in 0..b {
        let mut line = format!("{layer:>4}  ");
        for &cosine in found.row(layer) {
            if colours {
                let [red, green, blue] = colour(cosine);
                line += &format!("\x1b[48;2;{red};{green};{blue}m{:wide$}\x1b[0m", "");
            } else {
                let shade = if cosine.is_nan() { '?' } else { SHADES[(cosine.clamp(0.0, 1.0) * 5.0).round() as usize] };
                line.extend(std::iter::repeat_n(shade, wide));
            }
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Layers in a row that come from layers in a row, in words.
fn runs(origins: &[Origin]) -> Vec<String> {
    let kind = |origin: &Origin| (origin.source.is_some(), origin.silent, (origin.ratio * 50.0).round().to_bits());
    let mut runs: Vec<Vec<&Origin>> = Vec::new();
    for origin in origins {
        let goes_on = |last: &Origin| {
            kind(last) == kind(origin)
                && last.source.map(|source| source + 1) == origin.source.or(last.source.map(|_| usize::MAX))
                || (last.source.is_none() && origin.source.is_none())
        };
        match runs.last_mut().filter(|run| run.last().is_some_and(|last| goes_on(last))) {
            Some(run) => run.push(origin),
            None => runs.push(vec![origin]),
        }
    }
    let range = |first: usize, count: usize| match count {
        1 => format!("{first}"),
        _ => format!("{first}-{}", first + count - 1),
    };
    let words = |run: &Vec<&Origin>| {
        let (first, count) = (run[0], run.len());
        let least = run.iter().map(|origin| origin.cosine).fold(f32::INFINITY, f32::min);
        let layers = range(first.layer, count);
        let Some(source) = first.source else { return format!("{layers:>7}  from none (at most {:.2})", first.cosine) };
        let second = run.iter().map(|origin| origin.second).fold(f32::NEG_INFINITY, f32::max);
        let scaled = if (first.ratio - 1.0).abs() > 0.01 { format!(", scaled by {:.2}", first.ratio) } else { String::new() };
        let silent = if first.silent { ", adds nothing" } else { "" };
        format!("{layers:>7}  from {:<7} cosine {least:.3}, next {second:.3}{scaled}{silent}", range(source, count))
    };
    runs.iter().map(words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(layer: usize, source: Option<usize>, ratio: f32) -> Origin {
        Origin { layer, source, cosine: source.map_or(0.1, |_| 1.0), second: 0.01, ratio, silent: false }
    }

    #[test]
    fn layers_in_a_row_are_one_line() {
        let origins = [
            origin(0, Some(0), 1.0),
            origin(1, Some(1), 1.0),
            origin(2, Some(1), 0.5),
            origin(3, None, f32::NAN),
            origin(4, None, f32::NAN),
        ];
        let lines = runs(&origins);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!(lines[0].trim(), "0-1  from 0-1     cosine 1.000, next 0.010");
        assert!(lines[1].contains("2  from 1") && lines[1].ends_with("scaled by 0.50"));
        assert!(lines[2].contains("3-4  from none"));
    }
}
