//! The whole data pack of `shared`, where it is: numbers of rows, columns and their types as its SOURCES.md has them.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::Value;
use sol_eval::data::{Location, Source};
use sol_hub::Silent;

use crate::location;

fn pack() -> Option<PathBuf> {
    let shared = std::env::var_os("SOL_SHARED").map(PathBuf::from);
    let shared = shared.unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")));
    let pack = shared.join("eval/data");
    if !pack.is_dir() {
        println!("skipped: {} is not there", pack.display());
        return None;
    }
    Some(pack)
}

fn rows(source: &Source, location: &Location, split: &str) -> Vec<Value> {
    source.rows(location, split, &Silent).unwrap().into_iter().map(Value::Object).collect()
}

/// The type of a value: `s`, `i`, `f`, `b`, `n`, of a list that of its first element, of an object those of its fields.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "n".to_owned(),
        Value::Bool(_) => "b".to_owned(),
        Value::Number(number) => if number.is_f64() { "f" } else { "i" }.to_owned(),
        Value::String(_) => "s".to_owned(),
        Value::Array(list) => format!("[{}]", list.first().map(kind).unwrap_or_default()),
        Value::Object(row) => {
            let fields: Vec<String> = row.iter().map(|(name, value)| format!("{name}:{}", kind(value))).collect();
            format!("{{{}}}", fields.join(" "))
        }
    }
}

#[test]
fn every_data_set() {
    let Some(pack) = pack() else { return };
    let source = Source::folder(&pack);
    let arc = "{id:s question:s choices:{text:[s] label:[s]} answerKey:s}";
    let mmlu = "{config:s question:s subject:s choices:[s] answer:i}";
    let pro = "{question_id:i question:s options:[s] answer:s answer_index:i cot_content:s category:s src:s}";
    let gpqa = "{config:s Record ID:s Question:s Correct Answer:s Incorrect Answer 1:s Incorrect Answer 2:s \
                Incorrect Answer 3:s Subdomain:s}";
    let swag = "{ind:i activity_label:s ctx_a:s ctx_b:s ctx:s endings:[s] source_id:s split:s split_type:s label:s}";
    let musr = "{narrative:s question:s choices:s answer_index:i answer_choice:s}";
    let mbpp = "{task_id:i text:s code:s test_list:[s] test_setup_code:s challenge_test_list:[]}";
    for (folder, split, count, row) in [
        ("mmlu", "dev", 285, mmlu),
        ("mmlu", "validation", 1531, mmlu),
        ("mmlu", "test", 14042, mmlu),
        ("mmlu_pro", "test", 12032, pro),
        ("mmlu_pro", "validation", 70, pro),
        ("ifeval", "train", 541, "{key:i prompt:s instruction_id_list:[s] kwargs:[{}]}"),
        ("arc_challenge", "train", 1119, arc),
        ("arc_challenge", "validation", 299, arc),
        ("arc_challenge", "test", 1172, arc),
        ("gpqa_synthetic", "train", 27, gpqa),
        ("hellaswag", "validation", 10042, swag),
        ("eq_bench", "validation", 171, "{prompt:s reference_answer:s reference_answer_fullscale:s}"),
        ("bbh", "test", 6511, "{config:s input:s target:s}"),
        ("musr", "murder_mysteries", 5, musr),
        ("musr", "object_placements", 20, musr),
        ("musr", "team_allocation", 5, musr),
        ("gsm8k", "train", 7473, "{question:s answer:s}"),
        ("gsm8k", "test", 1319, "{question:s answer:s}"),
        ("mbpp", "train", 374, mbpp),
        ("mbpp", "validation", 90, mbpp),
        ("mbpp", "prompt", 10, mbpp),
        ("mbpp", "test", 500, &mbpp.replace("[]", "[s]")),
    ] {
        let rows = rows(&source, &location(&format!("folder = \"{folder}\"")), split);
        assert_eq!(rows.len(), count, "{folder}/{split}");
        assert_eq!(kind(&rows[0]), row, "{folder}/{split}");
        // The columns are those of the first row, in its order, in every row.
        let names = |row: &Value| row.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert!(rows.iter().all(|row| names(row) == names(&rows[0])), "{folder}/{split}");
    }
}

#[test]
fn every_config() {
    let Some(pack) = pack() else { return };
    let source = Source::folder(&pack);
    let of = |folder: &str, config: &str, split: &str| {
        let location = location(&format!("folder = \"{folder}\"\nconfig = \"{config}\""));
        rows(&source, &location, split)
    };
    let subjects: Value = serde_json::from_slice(&std::fs::read(pack.join("mmlu/subjects.json")).unwrap()).unwrap();
    let subjects: Vec<String> = match &subjects {
        Value::Array(list) => list.iter().map(|entry| entry["subject"].as_str().unwrap_or_default().to_owned()).collect(),
        Value::Object(map) => map.keys().cloned().collect(),
        _ => Vec::new(),
    };
    assert_eq!(subjects.len(), 57);
    let begin = Instant::now();
    let (mut test, mut dev) = (0, 0);
    for subject in &subjects {
        test += of("mmlu", subject, "test").len();
        let rows = of("mmlu", subject, "dev");
        assert!(rows.iter().all(|row| row["subject"] == subject.as_str() && row.get("config").is_none()));
        dev += rows.len();
    }
    println!("MMLU, 57 subjects one by one: {:.2} s", begin.elapsed().as_secs_f64());
    assert_eq!((test, dev), (14042, 285));
    let bbh: Value = serde_json::from_slice(&std::fs::read(pack.join("bbh/fewshot.json")).unwrap()).unwrap();
    let used: usize = bbh.as_object().unwrap().keys().map(|config| of("bbh", config, "test").len()).sum();
    assert_eq!(used, 5761);
    for config in ["gpqa_main", "gpqa_extended", "gpqa_diamond"] {
        assert_eq!(of("gpqa_synthetic", config, "train").len(), 9);
    }
    // No column `config` in these: the config is the whole file.
    assert_eq!(of("arc_challenge", "ARC-Challenge", "test").len(), 1172);
    assert_eq!(of("gsm8k", "main", "test").len(), 1319);
}

#[test]
fn the_largest() {
    let Some(pack) = pack() else { return };
    let begin = Instant::now();
    let table = "folder = \"hellaswag\"\nsplits = { train = [\"train\", \"train_olmes\"] }\ncolumns = [\"label\"]";
    let source = Source::folder(&pack);
    let rows = rows(&source, &location(table), "train");
    println!("hellaswag train_olmes: {:.2} s", begin.elapsed().as_secs_f64());
    assert_eq!(rows.len(), 39905);
    assert_eq!(kind(&rows[0]), "{ind:i query:s choices:[s] label:s}");
    let origin = source.describe(&location(table), "train", &Silent).unwrap();
    assert_eq!(origin.files[0].sha256, "43819e05feaf8f863202ecf33487c2e055aac14d7dab4441436f38fc3c9a9976");
}
