//! What a model says about itself (`general.*`), found where llama.cpp's converter finds it: in the front matter of its card, in
//! the name that config.json gives, in the name of its directory; and the sampling that generation_config.json recommends.
//!
//! Of several sources the first that says something counts. Names are taken apart as the GGUF naming convention puts them
//! together: `Phi-3-medium-4k-instruct` is `Phi-3`, medium, tuned as `4k-instruct`.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value as Json;
use sol_weights::HfMetadata;
use sol_weights::gguf::{Array, TensorInfo, Value};

/// Keys under `general.` with the fields of a card that they are taken from, most wanted first.
const TEXTS: [(&str, &[&str]); 15] = [
    ("name", &["name", "model_name"]),
    ("author", &["author", "model_author", "model_creator"]),
    ("version", &["version", "model_version"]),
    ("organization", &["organization", "model_organization"]),
    ("finetune", &["finetune", "model_finetune"]),
    ("basename", &["basename", "model_basename", "model_type"]),
    ("description", &["description", "model_description"]),
    ("size_label", &["size_label", "model_size_label"]),
    ("license", &["license"]),
    ("license.name", &["license_name"]),
    ("license.link", &["license_link"]),
    ("source.url", &["url", "model_url"]),
    ("source.doi", &["doi", "model_doi"]),
    ("source.uuid", &["uuid", "model_uuid"]),
    ("source.repo_url", &["repo_url", "model_repo_url"]),
];

/// Keys under `general.sampling.` with the fields of generation_config.json; the second of each is what transformers calls it.
const SAMPLING: [(&str, &[&str], bool); 11] = [
    ("top_k", &["top_k"], true),
    ("top_p", &["top_p"], false),
    ("min_p", &["min_p"], false),
    ("xtc_probability", &["xtc_probability"], false),
    ("xtc_threshold", &["xtc_threshold"], false),
    ("temp", &["temperature"], false),
    ("penalty_last_n", &["penalty_last_n"], true),
    ("penalty_repeat", &["penalty_repeat", "repetition_penalty"], false),
    ("mirostat", &["mirostat"], true),
    ("mirostat_tau", &["mirostat_tau"], false),
    ("mirostat_eta", &["mirostat_eta"], false),
];

/// All keys under `general.` but architecture and types. `tensors` are those of the file.
pub(super) fn keys<'a>(
    source: &Path,
    hf: &HfMetadata,
    tensors: impl Iterator<Item = &'a TensorInfo>,
    notes: &mut Vec<String>,
) -> Vec<(String, Value)> {
    let size = Size::of(tensors);
    let card = card(&hf.dir, notes);
    let mut keys = sampling(&hf.dir);
    let named = hf.config["_name_or_path"].as_str().filter(|name| name.matches('/').count() <= 1);
    let names = [named.map(str::to_owned), Some(directory_name(source))].into_iter().flatten();
    let names: Vec<Name> = names.map(|id| Name::of(&id, size.all)).collect();
    for (key, fields) in TEXTS {
        let from_card = fields.iter().find_map(|field| text(&card[field]));
        let from_name = || match key {
            "name" => names.iter().find_map(|name| name.name.as_deref().map(title)),
            "organization" => names.iter().find_map(|name| name.organization.as_deref().map(title)),
            "basename" => names.iter().find_map(|name| name.basename.clone()),
            "finetune" => names.iter().find_map(|name| name.finetune.clone()),
            "version" => names.iter().find_map(|name| name.version.clone()),
            "size_label" => names.iter().find_map(|name| name.size_label.clone()).or_else(|| size.label()),
            _ => None,
        };
        keys.extend(from_card.or_else(from_name).map(|text| general(key, Value::String(text))));
    }
    let first = |fields: &[&str]| fields.iter().find(|field| !card[**field].is_null()).map(|field| list(&card[*field]));
    for (key, fields) in [
        ("base_model", ["base_model", "base_models", "base_model_sources"]),
        ("dataset", ["datasets", "dataset", "dataset_sources"]),
    ] {
        if let Some(entries) = first(&fields) {
            keys.push(general(&format!("{key}.count"), Value::U32(entries.len() as u32)));
            for (at, entry) in entries.iter().enumerate() {
                keys.extend(
                    parent(entry, size.all)
                        .into_iter()
                        .map(|(field, text)| general(&format!("{key}.{at}.{field}"), Value::String(text))),
                );
            }
        }
    }
    for (key, fields) in [("tags", ["tags", "pipeline_tag"]), ("languages", ["languages", "language"])] {
        let all: Vec<String> = fields.iter().flat_map(|field| list(&card[*field])).filter_map(|item| text(&item)).collect();
        if !all.is_empty() {
            keys.push(general(key, Value::Array(Array::String(all))));
        }
    }
    keys
}

fn general(key: &str, value: Value) -> (String, Value) {
    (format!("general.{key}"), value)
}

/// The front matter of the card; null where there is none that can be read.
fn card(dir: &Path, notes: &mut Vec<String>) -> Json {
    let Ok(text) = fs::read_to_string(dir.join("README.md")) else { return Json::Null };
    let mut lines = text.lines();
    if lines.next() != Some("---") {
        return Json::Null;
    }
    // `no` is Norwegian; tabs are common and no YAML.
    let matter: String = lines
        .take_while(|line| *line != "---")
        .map(|line| match line.strip_suffix("- no") {
            Some(indent) => format!("{indent}- \"no\"\n"),
            None => format!("{}\n", line.replace('\t', "  ")),
        })
        .collect();
    match serde_saphyr::from_str::<Json>(&matter) {
        Ok(card) if card.is_object() => card,
        _ => {
            notes.push(
                "the front matter of README.md is not YAML that can be read: licence, tags and languages are left out".into(),
            );
            Json::Null
        }
    }
}

/// A field as text; several licences with commas.
fn text(field: &Json) -> Option<String> {
    match field {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::Array(items) => Some(items.iter().filter_map(Json::as_str).collect::<Vec<_>>().join(",")),
        _ => None,
    }
    .filter(|text| !text.is_empty())
}

fn list(field: &Json) -> Vec<Json> {
    match field {
        Json::Null => Vec::new(),
        Json::Array(items) => items.clone(),
        one => vec![one.clone()],
    }
}

/// Whence a model or its data come: fields of one entry.
fn parent(entry: &Json, parameters: u64) -> Vec<(String, String)> {
    const HUB: &str = "https://huggingface.co/";
    let own = |field: &str, text: String| (field.to_owned(), text);
    let Some(id) = entry.as_str() else {
        let fields = entry.as_object().into_iter().flatten();
        return fields.filter_map(|(field, value)| Some((field.clone(), text(value)?))).collect();
    };
    let mut fields = Vec::new();
    let is_url = ["http://", "https://", "ssh://"].iter().any(|scheme| id.starts_with(scheme));
    let on_hub = id.strip_prefix(HUB).filter(|id| id.matches('/').count() == 1);
    if is_url {
        fields.push(own("repo_url", id.to_owned()));
    }
    if let Some(id) = if is_url { on_hub } else { Some(id) } {
        let name = Name::of(id, parameters);
        fields.extend(name.name.as_deref().map(|text| own("name", title(text))));
        fields.extend(name.organization.as_deref().map(|text| own("organization", title(text))));
        fields.extend(name.version.map(|text| own("version", text)));
        if let (false, Some(organization), Some(name)) = (is_url, name.organization, name.name) {
            fields.push(own("repo_url", format!("{HUB}{organization}/{name}")));
        }
    }
    fields
}

fn sampling(dir: &Path) -> Vec<(String, Value)> {
    let read = || serde_json::from_slice::<Json>(&fs::read(dir.join("generation_config.json")).ok()?).ok();
    let Some(config) = read() else { return Vec::new() };
    let number = |(key, fields, whole): (&str, &[&str], bool)| {
        let field = fields.iter().map(|field| &config[*field]).find(|field| !field.is_null())?;
        let value = match whole {
            true => Value::I32(i32::try_from(field.as_i64()?).ok()?),
            false => Value::F32(field.as_f64()? as f32),
        };
        Some(general(&format!("sampling.{key}"), value))
    };
    SAMPLING.into_iter().filter_map(number).collect()
}

/// What a directory is called; of one in the hub's cache `organization/repository`.
fn directory_name(source: &Path) -> String {
    let full = fs::canonicalize(source).unwrap_or_else(|_| source.to_owned());
    let dir = if full.is_dir() { full.as_path() } else { full.parent().unwrap_or(&full) };
    let names = dir.components().rev().map(|part| part.as_os_str().to_string_lossy().into_owned());
    let names: Vec<String> = names.take(3).collect();
    match &names[..] {
        [hash, snapshots, repository] if hash.len() == 40 && snapshots == "snapshots" => {
            repository.strip_prefix("models--").unwrap_or(repository).replacen("--", "/", 1)
        }
        [name, ..] => name.clone(),
        [] => "model".into(),
    }
}

/// Words of a name with capitals, but versions and what has capitals already.
fn title(name: &str) -> String {
    let word = |word: &str| {
        let lower = word.chars().any(char::is_lowercase) && !word.chars().any(char::is_uppercase);
        if !lower || is(&VERSION_OR_NUMBER, word) {
            return word.to_owned();
        }
        let mut after_letter = false;
        let mut capital = |c: char| {
            let first = !after_letter;
            after_letter = c.is_alphabetic();
            if first { c.to_uppercase().collect::<String>() } else { c.to_string() }
        };
        word.chars().map(&mut capital).collect()
    };
    name.replace('-', " ").split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

fn regex(pattern: &str) -> Regex {
    Regex::new(&format!("^(?:{pattern})$")).expect("a constant")
}

// Digits and letters of ASCII alone: a Kelvin sign is no k.
static VERSION_OR_NUMBER: LazyLock<Regex> = LazyLock::new(|| regex(r"v[0-9]+(?:\.[0-9]+)*|[0-9].*"));
static VERSION: LazyLock<Regex> = LazyLock::new(|| regex(r"(?i-u)(?:v|iter)?\d+(?:\.\d+)*"));
static TYPE: LazyLock<Regex> = LazyLock::new(|| regex(r"(?i-u)i?q\d(?:_\w)*|b?fp?(?:16|32)"));
static SIZE: LazyLock<Regex> = LazyLock::new(|| regex(r"(?i-u)(?:a|\d+x)?\d+(?:[._]\d+)?[kmbt]\d?|small|mini|medium|large|x?xl"));
static TUNED: LazyLock<Regex> = LazyLock::new(|| regex(r"(?i-u)chat|instruct|vision|lora"));

fn is(pattern: &LazyLock<Regex>, text: &str) -> bool {
    pattern.is_match(text)
}

/// The parts of a model's name.
#[derive(Debug, Default, PartialEq)]
struct Name {
    organization: Option<String>,
    name: Option<String>,
    basename: Option<String>,
    finetune: Option<String>,
    version: Option<String>,
    size_label: Option<String>,
}

/// What a piece of a name is.
#[derive(Clone, Copy, PartialEq)]
enum Piece {
    Unknown,
    Version,
    Type,
    Size,
    Tuned,
}

impl Name {
    /// Takes `organization/name` or `name` apart. `parameters` tells a size from a length of context.
    fn of(id: &str, parameters: u64) -> Self {
        if id.contains(' ') {
            return Self { name: Some(id.to_owned()), ..Self::default() };
        }
        let (organization, full) = id.split_once('/').map_or((None, id), |(organization, name)| (Some(organization), name));
        let organization = organization.filter(|name| !name.is_empty() && !name.starts_with('.')).map(str::to_owned);
        let mut pieces: Vec<(String, Piece)> = full
            .split('-')
            .filter(|piece| !piece.is_empty())
            .enumerate()
            .map(|(at, piece)| kind(at, piece, parameters))
            .collect();
        // Words say less about a size than numbers.
        if pieces.iter().any(|(text, kind)| *kind == Piece::Size && text.contains(|c: char| c.is_ascii_digit())) {
            let words = pieces.iter_mut().filter(|(text, kind)| *kind == Piece::Size && text.chars().all(char::is_alphabetic));
            words.for_each(|piece| piece.1 = Piece::Unknown);
        }
        // The base's name goes on until something else comes; versions at its end are versions.
        let is_base = |(text, kind): &&(String, Piece)| {
            *kind == Piece::Version || (*kind == Piece::Unknown && text.starts_with(char::is_alphabetic))
        };
        let reach = pieces.iter().take_while(is_base).count();
        pieces[reach..].iter_mut().filter(|piece| piece.1 == Piece::Unknown).for_each(|piece| piece.1 = Piece::Tuned);
        let trailing =
            if reach == pieces.len() { pieces.iter().rev().take_while(|piece| piece.1 == Piece::Version).count() } else { 0 };
        let base = reach - trailing;
        let joined = |of: &dyn Fn(usize, Piece) -> bool| {
            let mut texts: Vec<&str> = Vec::new();
            for (at, (text, kind)) in pieces.iter().enumerate() {
                let again = *kind == Piece::Size && texts.contains(&text.as_str());
                if of(at, *kind) && !again {
                    texts.push(text);
                }
            }
            (!texts.is_empty()).then(|| texts.join("-"))
        };
        let size_label = joined(&|_, kind| kind == Piece::Size);
        let finetune = joined(&|_, kind| kind == Piece::Tuned);
        let version = joined(&|at, kind| kind == Piece::Version && at >= base);
        // A name of which no part says anything else says nothing about the base either.
        let ambiguous = size_label.is_none() && finetune.is_none() && version.is_none();
        let basename = joined(&|at, _| at < base).filter(|_| !ambiguous);
        Self { organization, name: Some(full.to_owned()), basename, finetune, version, size_label }
    }
}

/// What piece number `at` of a name is, and how it is written.
fn kind(at: usize, piece: &str, parameters: u64) -> (String, Piece) {
    if is(&VERSION, piece) {
        return (piece.to_owned(), Piece::Version);
    }
    if is(&TYPE, piece) {
        return (piece.to_uppercase(), Piece::Type);
    }
    if at > 0 && is(&SIZE, piece) {
        let mut label = piece.replace('_', ".");
        if let [.., unit, digit] = label.as_bytes()
            && digit.is_ascii_digit()
        {
            // 7b1 is 7.1b.
            label = format!("{}.{}{}", &label[..label.len() - 2], char::from(*digit), char::from(*unit));
        }
        let (number, unit) = label.split_at(label.len() - 1);
        let Some(power) = ["K", "M", "B", "T"].iter().position(|known| known.eq_ignore_ascii_case(unit)) else {
            return (label, Piece::Size);
        };
        if !number.ends_with(|c: char| c.is_ascii_digit()) {
            return (label, Piece::Size);
        }
        let size = number.parse::<f64>().map(|number| number * 1000f64.powi(power as i32 + 1));
        let near = |size: f64| (size - parameters as f64).abs() <= (7 * parameters / 8) as f64;
        return if size.is_ok_and(|size| parameters != 0 && !near(size)) {
            (format!("{number}{}", unit.to_lowercase()), Piece::Tuned)
        } else {
            (format!("{number}{}", unit.to_uppercase()), Piece::Size)
        };
    }
    let known = at > 0 && is(&TUNED, piece);
    (piece.to_owned(), if known { Piece::Tuned } else { Piece::Unknown })
}

/// Numbers of all tensors.
#[derive(Default)]
struct Size {
    all: u64,
    /// All but those of experts, and of one expert each.
    shared: u64,
    one_expert: u64,
    experts: u64,
}

impl Size {
    fn of<'a>(tensors: impl Iterator<Item = &'a TensorInfo>) -> Self {
        let mut size = Self::default();
        for info in tensors {
            let count = info.shape.iter().map(|n| *n as u64).product::<u64>();
            size.all += count;
            match info.shape[..] {
                [experts, _, _] if info.name.contains("_exps.") => {
                    size.one_expert += count / (experts as u64).max(1);
                    size.experts = experts as u64;
                }
                _ => size.shared += count,
            }
        }
        size
    }

    /// As file names of models have it: `135M`, `22B`, of a mixture `16x4.1B`.
    fn label(&self) -> Option<String> {
        if self.all == 0 {
            return None;
        }
        let rounded = |n: u64| {
            let (n, unit) = match n as f64 {
                n if n > 1e12 => (n / 1e12, 'T'),
                n if n > 1e9 => (n / 1e9, 'B'),
                n if n > 1e6 => (n / 1e6, 'M'),
                n => (n / 1e3, 'K'),
            };
            let digits = match n.round_ties_even() as u64 {
                0 => 2,
                1..=9 => 1,
                _ => 0,
            };
            format!("{n:.digits$}{unit}")
        };
        Some(match self.experts {
            0 => rounded(self.all),
            experts => format!("{experts}x{}", rounded(self.shared + self.one_expert)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected: what gguf-py 0.19's `Metadata.get_model_id_components` says (xtools/check_convert.py asks it for more).
    #[test]
    fn names_are_taken_apart_as_llama_cpp_does() {
        for (id, parameters, expected) in [
            ("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008, ["HuggingFaceTB", "SmolLM2", "Instruct", "", "135M"]),
            ("microsoft/Phi-3-medium-4k-instruct", 13_960_238_080, ["microsoft", "Phi-3", "4k-instruct", "", "medium"]),
            ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248, ["meta-llama", "Llama-3.1", "Instruct", "", "8B"]),
            ("upstage/solar-pro-preview-instruct", 22_140_032_000, ["upstage", "solar-pro-preview", "instruct", "", ""]),
            ("google/gemma-2-27b-it", 27_227_128_320, ["google", "gemma-2", "it", "", "27B"]),
            ("microsoft/Phi-3.5-MoE-instruct", 41_873_153_344, ["microsoft", "Phi-3.5-MoE", "instruct", "", ""]),
            ("upstage/SOLAR-10.7B-v1.0", 10_731_524_096, ["upstage", "SOLAR", "", "v1.0", "10.7B"]),
            ("bloom-7b1-fp16", 7_069_016_064, ["", "bloom", "", "", "7.1B"]),
            ("Mixtral-8x7B-v0.1", 46_702_792_704, ["", "Mixtral", "", "v0.1", "8x7B"]),
            ("model", 0, ["", "", "", "", ""]),
            ("Model-2", 0, ["", "Model", "", "2", ""]),
            ("./here", 0, ["", "", "", "", ""]),
        ] {
            let name = Name::of(id, parameters);
            let found =
                [name.organization, name.basename, name.finetune, name.version, name.size_label].map(Option::unwrap_or_default);
            assert_eq!(found, expected, "{id}");
        }
        // Kelvin's sign, and digits of another script: words like others.
        for id in ["model-7\u{212a}", "model-\u{667}b", "model-v\u{662}", "model-\u{667}x7b1", "model-7b\u{661}"] {
            assert_eq!(Name::of(id, 7_000_000_000).size_label, None, "{id}");
        }
        assert_eq!(title("solar-pro-preview-instruct"), "Solar Pro Preview Instruct");
        assert_eq!(title("SmolLM2-135m-v1.0"), "SmolLM2 135m v1.0");
    }

    #[test]
    fn sizes_have_two_digits() {
        let size = |all| Size { all, ..Size::default() }.label().unwrap();
        assert_eq!([134_515_008, 1_640_000_000, 22_140_032_000, 43_000].map(size), ["135M", "1.6B", "22B", "43K"]);
        let mixture = Size { all: 9, shared: 1_000_000_000, one_expert: 3_100_000_000, experts: 16 };
        assert_eq!(mixture.label().unwrap(), "16x4.1B");
    }
}
