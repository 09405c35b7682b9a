//! Runs that this test writes, as the harness would: opened, shown, compared.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sol_eval::report::{Limits, Run, Scope, Test, compare, html, html_within};
use tempfile::TempDir;

/// What a model could say to take over a page.
const HOSTILE: &str =
    "</script><script>alert(1)</script><img src=x onerror=alert(2)><!-- <!--items--> ]]> & \" ' {{ 7 * 7 }} \u{2028}";

fn lines(folder: &Path, name: &str, lines: &[Value]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(folder.join(name), text).unwrap();
}

/// A choice between two: right is `A` for all, the model says `A` where `right`.
fn choice(doc_id: usize, right: bool) -> Value {
    let (a, b) = if right { (-0.5, -2.0) } else { (-2.0, -0.5) };
    json!({
        "doc_id": doc_id, "doc": { "acc": "of the document" }, "target": 0,
        "arguments": [[format!("Examples are here.\n\nQuestion {doc_id}: is this one right or wrong?\nAnswer:"), " A"], ["", " B"]],
        "resps": [[[a, true]], [[b, false]]], "filtered_resps": [[a, true], [b, false]],
        "doc_hash": format!("d{doc_id}"), "prompt_hash": "p", "target_hash": "t", "acc": f64::from(u8::from(right)),
    })
}

/// Two tasks of choices in a group, of which these many of 20 are right; and one of texts with a hostile answer.
fn run(right: [usize; 2], shots: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let task = |n: usize| json!({ "alias": "t", "acc,none": n as f64 / 20.0, "acc_stderr,none": 0.1 });
    let results = json!({
        "results": {
            "g_one": task(right[0]), "g_two": task(right[1]),
            "say": { "alias": "say", "exact_match,strict": 0.5, "exact_match_stderr,strict": "N/A", "exact_match,loose": 1.0 },
        },
        "groups": { "g": { "alias": "g", "acc,none": 0.5, "acc_stderr,none": 0.05 } },
        "group_subtasks": { "g": ["g_one", "g_two"] },
        "versions": { "g_one": 1, "g_two": 1, "say": 3 },
        "n-shot": { "g_one": shots, "g_two": shots, "say": 0 },
        "higher_is_better": { "g_one": { "acc": true } },
        "n-samples": { "g_one": { "original": 40, "effective": 20 } },
        "config": { "limit": 20.0, "model_args": HOSTILE },
        "model_name": HOSTILE, "date": 1_726_000_000.5, "something new": [1, { "a": null }],
        "suite": { "title": HOSTILE, "columns": ["Card", HOSTILE], "rows": [
            { "row": "G", "setting": "5-shot", "metric": "acc", "value": 0.51234, "stderr": 0.01, "card": [79.14, null],
              "differs": [true, null], "alternatives": [{ "name": "weighted", "value": 0.5, "stderr": null }] },
        ] },
    });
    fs::write(folder.path().join("results.json"), results.to_string()).unwrap();
    for (name, right) in ["g_one", "g_two"].iter().zip(right) {
        let samples: Vec<Value> = (0..20).map(|i| choice(i, i < right)).collect();
        lines(folder.path(), &format!("samples_{name}.jsonl"), &samples);
    }
    let say = |filter: &str, made: &str, value: f64| {
        json!({
            "doc_id": 0, "target": HOSTILE, "arguments": [[HOSTILE, { "until": [HOSTILE] }]], "resps": [[HOSTILE]],
            "filtered_resps": [made], "filter": filter, "doc_hash": "d", "exact_match": value,
        })
    };
    lines(folder.path(), "samples_say.jsonl", &[say("strict", "[invalid]", 0.0), say("loose", HOSTILE, 1.0)]);
    folder
}

fn page(run: &Run) -> String {
    let mut page = Vec::new();
    html(run, &mut page).unwrap();
    String::from_utf8(page).unwrap()
}

/// The embedded JSON of an id.
fn embedded(page: &str, id: &str) -> Value {
    let (_, rest) = page.split_once(&format!("id=\"{id}\">")).unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn a_run_is_read_item_by_item() {
    let folder = run([20, 5], 5);
    let run = Run::open(folder.path()).unwrap();
    assert_eq!(run.tasks().collect::<Vec<_>>(), ["g_one", "g_two", "say"]);
    assert_eq!(run.model(), HOSTILE);
    let samples: Vec<_> = run.samples("g_two").unwrap().unwrap().collect::<Result<_, _>>().unwrap();
    let sample = &samples[7];
    assert_eq!((samples.len(), sample.doc_id, sample.gold, &*sample.filter), (20, 7, Some(0), "none"));
    assert_eq!((sample.choices[1].text.as_str(), sample.choices[1].log_likelihood), ("B", Some(-0.5)));
    assert_eq!(sample.metrics.iter().map(|(name, m)| (&**name, m.sum, m.parts)).collect::<Vec<_>>(), [("acc", 0.0, 1)]);
    let filters: Vec<_> = run.samples("say").unwrap().unwrap().map(|s| s.unwrap().filter).collect();
    assert_eq!(filters.iter().map(|f| &**f).collect::<Vec<_>>(), ["strict", "loose"]);
    assert!(run.samples("other").unwrap().is_none());
}

#[test]
fn what_the_harness_itself_writes() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("org__model");
    fs::create_dir(&below).unwrap();
    // The harness writes NaN, texts for numbers, and filters only in the task's configuration.
    let results = r#"{"results": {"gsm": {"alias": "gsm", "exact_match,strict": NaN, "exact_match,flexible": 0.5}},
        "configs": {"gsm": {"filter_list": [{"name": "strict"}, {"name": "flexible"}]}}, "n-shot": {"gsm": 8}}"#;
    for time in ["2024-09-10T10-00-00.1", "2024-09-11T10-00-00.1"] {
        fs::write(below.join(format!("results_{time}.json")), results).unwrap();
    }
    let line = |value: f64| {
        json!({
            "doc_id": 4, "doc": {}, "target": "7", "arguments": { "gen_args_0": { "arg_0": "Q", "arg_1": { "until": [] } } },
            "resps": [["It is 7"]], "filtered_resps": ["7"], "exact_match": value,
        })
    };
    lines(&below, "samples_gsm_2024-09-10T10-00-00.1.jsonl", &[line(0.0)]);
    lines(&below, "samples_gsm_2024-09-11T10-00-00.1.jsonl", &[line(0.0), line(1.0)]);
    let run = Run::open(folder.path()).unwrap();
    assert!(run.file().ends_with("results_2024-09-11T10-00-00.1.json"));
    let samples: Vec<_> = run.samples("gsm").unwrap().unwrap().collect::<Result<_, _>>().unwrap();
    let found: Vec<_> = samples.iter().map(|s| (&*s.filter, s.metrics[0].1.sum, s.texts[0].as_str())).collect();
    assert_eq!(found, [("strict", 0.0, "It is 7"), ("flexible", 1.0, "It is 7")]);

    lines(&below, "samples_gsm_2024-09-11T10-00-00.1.jsonl", &[line(0.0), line(1.0), line(1.0)]);
    let error = run.samples("gsm").unwrap().unwrap().last().unwrap().unwrap_err().to_string();
    assert!(error.contains("line 3: document 4 is here again"), "{error}");
}

#[test]
fn errors_say_where() {
    let folder = tempfile::tempdir().unwrap();
    let error = |path: &Path| Run::open(path).unwrap_err().to_string();
    assert!(error(folder.path()).contains("holds no results.json"));
    let file = folder.path().join("results.json");
    fs::write(&file, "{\n\"results\": {},\n").unwrap();
    assert!(error(&file).contains("results.json, line 3: is no JSON"), "{}", error(&file));
    fs::write(&file, "[]").unwrap();
    assert!(error(&file).contains("not an object"));
    fs::write(&file, r#"{"results": {"t": {"acc,none": 1.0}}}"#).unwrap();
    fs::write(folder.path().join("samples_t.jsonl"), "\n{\"doc_id\": 0, \"acc\": 1.0}\n{\"doc_id\": \"zero\"}\n").unwrap();
    let run = Run::open(folder.path()).unwrap();
    let error = run.samples("t").unwrap().unwrap().last().unwrap().unwrap_err().to_string();
    assert!(error.contains("samples_t.jsonl, line 3: is no sample"), "{error}");
    assert!(html(&run, &mut Vec::new()).unwrap_err().to_string().contains("line 3"));
}

#[test]
fn hostile_text_stays_text() {
    let folder = run([20, 5], 5);
    let page = page(&Run::open(folder.path()).unwrap());
    // The script, the overview, three tasks: no element comes from the data, and none has a handler or a source.
    assert_eq!(page.matches("<script").count(), 5);
    assert_eq!(page.matches("</script").count(), 5);
    assert!(!page.contains("<img") && !page.contains("<!--") && !page.contains("src=x onerror=alert(2)>"));
    assert!(!page.contains("49 }") && page.contains("{{ 7 * 7 }}"), "a template in the data was run");
    for outside in ["<link", "<iframe", "url(", "http://", "https://", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
    let items = embedded(&page, "items-2");
    assert_eq!((items[0]["a"][0].as_str(), items[0]["q"].as_str()), (Some(HOSTILE), Some(HOSTILE)));
    assert_eq!((items[1]["f"].as_str(), items[1]["x"].as_array().is_none()), (Some("loose"), true));
    assert_eq!(embedded(&page, "meta")["tasks"][2]["name"], "say");
}

#[test]
fn the_page_shows_figures_and_items() {
    let folder = run([20, 5], 5);
    let run = Run::open(folder.path()).unwrap();
    let page = page(&run);
    for part in
        ["2024-09-10 20:26 UTC", "51.23", "±1.00", "weighted 50.00", "79.14", "this run is significantly below", "20 of 40"]
    {
        assert!(page.contains(part), "{part}");
    }
    // The better task of the group comes first, with its error on both sides, cut at 100.
    let (one, two) = (page.find("title=\"g_one\"").unwrap(), page.find("title=\"g_two\"").unwrap());
    assert!(one < two && page.contains("x1=\"80.40\" x2=\"100.00\""), "{one} {two}");
    let items = embedded(&page, "items-1");
    assert_eq!(items[3]["q"], "Question 3: is this one right or wrong?\nAnswer:");
    assert_eq!((&items[3]["p"], &items[3]["g"]), (&json!("Examples are here.\n\n"), &json!(0)));
    assert_eq!(items[3]["c"], json!([["A", -0.5, true, 1], ["B", -2.0, false, 1]]));
}

#[test]
fn a_page_is_bounded_and_says_so() {
    let folder = run([20, 5], 5);
    let run = Run::open(folder.path()).unwrap();
    let mut page = Vec::new();
    html_within(&run, Limits { bytes: 3000, context: 12, answer: 5 }, &mut page).unwrap();
    let page = String::from_utf8(page).unwrap();
    let items = embedded(&page, "items-0");
    let (shown, size) = (items.as_array().unwrap().len(), items.to_string().len());
    assert!((1..20).contains(&shown) && size <= 3000, "{shown} items, {size} bytes");
    assert_eq!(items[0]["q"], "ong?\nAnswer:");
    assert!(page.contains(&format!("g_one: the first {shown} of 20")) && !page.contains("say: the first"));
    assert_eq!(embedded(&page, "items-2")[0]["a"][0], "</scr… [cut]");
}

#[test]
fn two_runs_item_by_item() {
    let (a, b) = (run([20, 5], 5), run([10, 5], 0));
    // One document of B is another one, and one is missing.
    let mut samples: Vec<Value> = (0..19).map(|i| choice(i, i < 5)).collect();
    samples[18]["doc_hash"] = "another".into();
    samples[17]["prompt_hash"] = "another".into();
    lines(b.path(), "samples_g_two.jsonl", &samples);
    let (a, b) = (Run::open(a.path()).unwrap(), Run::open(b.path()).unwrap());
    let comparison = compare(&a, &b).unwrap();

    let one = &comparison.differences[0];
    assert_eq!((one.name.as_str(), one.items, one.a, one.b, one.a_higher, one.b_higher), ("g_one", 20, 1.0, 0.5, 10, 0));
    // 2 · 2⁻¹⁰; the smallest of four p values (`say` has two filters) counts four times.
    assert_eq!((one.test, one.significant), (Test::McNemar, true));
    assert!((one.p * 512.0 - 1.0).abs() < 1e-12 && (one.p_holm * 128.0 - 1.0).abs() < 1e-12, "{one:?}");
    // Of ten differences of -1 and ten of 0.
    assert!((one.stderr.unwrap() - (0.25 / 19f64).sqrt()).abs() < 1e-12);
    let two = &comparison.tasks[1];
    assert_eq!((two.both, two.only_a, two.only_b, two.unlike, two.other_prompt), (18, 1, 0, 1, 1));
    let group = comparison.differences.iter().find(|d| d.scope == Scope::Group).unwrap();
    assert_eq!((group.name.as_str(), group.items, group.a_higher), ("g", 38, 10));
    let all = comparison.differences.last().unwrap();
    assert_eq!((all.scope, all.items), (Scope::All, 39));
    assert_eq!(comparison.changes.len(), 10);
    let change = &comparison.changes[0];
    assert_eq!((change.task.as_str(), change.doc_id, change.a, change.b), ("g_one", 10, 1.0, 0.0));
    assert!(change.question.ends_with("Question 10: is this one right or wrong? Answer:"));

    let table = comparison.table().lines().skip(2).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!(table, @"
    Warning: the number of examples is 5 in A and 0 in B, of g_one, g_two
    Warning: documents in A only: 1, of g_two
    Warning: documents of the same number but unlike, and so not compared: 1, of g_two
    Warning: documents asked with another prompt, but compared: 1, of g_two
    |Tasks    |Filter|Metric      | |Items|     A|     B|  B - A|Stderr|B>A|A>B|     p|p (Holm)| |
    |---------|------|------------|-|----:|-----:|-----:|------:|-----:|--:|--:|-----:|-------:|-|
    |g_one    |none  |acc         |↑|   20|1.0000|0.5000|-0.5000|0.1147|  0| 10|0.0020|  0.0078|*|
    |g_two    |none  |acc         | |   18|0.2778|0.2778|+0.0000|0.0000|  0|  0|1.0000|  1.0000| |
    |say      |strict|exact_match | |    1|0.0000|0.0000|+0.0000|   N/A|  0|  0|1.0000|  1.0000| |
    |say      |loose |exact_match | |    1|1.0000|1.0000|+0.0000|   N/A|  0|  0|1.0000|  1.0000| |
    |g        |none  |acc         |↑|   38|0.6579|0.3947|-0.2632|0.0724|  0| 10|0.0020|  0.0039|*|
    |all tasks|      |first metric| |   39|0.6410|0.3846|-0.2564|0.0708|  0| 10|0.0020|  0.0039|*|
    * more than chance: p below 0.05 after Holm's correction
    ");
    let value = comparison.to_json();
    assert_eq!((&value["differences"][0]["test"], &value["differences"][0]["scope"]), (&json!("mcnemar"), &json!("task")));
    assert_eq!(value["changes"][0]["doc_id"], 10);
}

#[test]
fn runs_with_nothing_in_common() {
    let (a, b) = (run([20, 5], 5), tempfile::tempdir().unwrap());
    fs::write(b.path().join("results.json"), r#"{"results": {"g_one": {"acc,none": 1.0}}}"#).unwrap();
    let (a, b) = (Run::open(a.path()).unwrap(), Run::open(b.path()).unwrap());
    assert!(compare(&a, &b).unwrap_err().to_string().contains("--log-samples"));
}
