//! What the page's template is given.

use serde_json::{Map, Value, json};

use super::Run;
use super::run::Key;
use super::sample::text;

/// Parts of a results file that are shown elsewhere, or that say nothing to people.
const SECTIONS: [&str; 18] = [
    "results",
    "groups",
    "group_subtasks",
    "macro_mean",
    "configs",
    "versions",
    "n-shot",
    "higher_is_better",
    "n-samples",
    "suite",
    "config",
    "task_hashes",
    "samples",
    "model",
    "model_name",
    "date",
    "start_time",
    "end_time",
];
/// Characters that fit on a line of facts.
const SHORT: usize = 160;

/// When the run was, as `YYYY-MM-DD hh:mm UTC` where the file has seconds.
pub(super) fn date(run: &Run) -> Option<String> {
    let date = run.results().get("date")?;
    match date.as_f64() {
        Some(seconds) if (0.0..1e11).contains(&seconds) => Some(utc(seconds as u64)),
        _ => Some(text(date)),
    }
}

fn utc(seconds: u64) -> String {
    let (mut days, second) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        (days, month) = (days - length, month + 1);
    }
    format!("{year}-{month:02}-{:02} {:02}:{:02} UTC", days + 1, second / 3600, second / 60 % 60)
}

/// All that the file says of the run itself: `[{name, value, long}]`.
pub(super) fn facts(run: &Run) -> Vec<Value> {
    let top = run.results().iter().filter(|(key, _)| !SECTIONS.contains(&key.as_str()));
    let config = run.results().get("config").and_then(Value::as_object).into_iter().flatten();
    let some = |value: &Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(items) => !items.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    };
    let fact = |(key, value): (&String, &Value)| {
        let value = text(value);
        let long = value.chars().count() > SHORT || value.contains('\n');
        json!({ "name": key.replace('_', " "), "value": value, "long": long })
    };
    let mut facts: Vec<Value> = config.chain(top).filter(|(_, value)| some(value)).map(fact).collect();
    facts.sort_by_key(|fact| fact["long"] == true);
    facts
}

/// The suite's table, ready to print.
pub(super) fn suite(run: &Run) -> Option<Value> {
    let suite = run.results().get("suite")?.as_object()?;
    let columns: Vec<&str> = suite.get("columns")?.as_array()?.iter().filter_map(Value::as_str).collect();
    let rows: Vec<Value> = suite.get("rows")?.as_array()?.iter().map(|row| suite_row(row, columns.len())).collect();
    let title = ["title", "name"].iter().find_map(|key| suite.get(*key)?.as_str());
    Some(json!({ "title": title.unwrap_or("Suite"), "columns": columns, "rows": rows }))
}

fn suite_row(row: &Value, columns: usize) -> Value {
    let scale = row["scale"].as_f64().unwrap_or(100.0);
    let printed = |value: &Value| value.as_f64().map(|v| format!("{:.2}", v * scale));
    let value = row["value"].as_f64().map(|v| v * scale);
    let card = |i: usize| {
        let card = row["card"][i].as_f64();
        let ahead = card.zip(value).filter(|_| row["differs"][i] == true).map(|(card, value)| value > card);
        json!({ "value": card.map(|v| format!("{v:.2}")), "ahead": ahead })
    };
    let alternative =
        |a: &Value| json!({ "name": text(&a["name"]), "value": printed(&a["value"]), "stderr": printed(&a["stderr"]) });
    json!({
        "row": text(&row["row"]),
        "setting": row["setting"].as_str(),
        "metric": row["metric"].as_str(),
        "value": printed(&row["value"]),
        "stderr": printed(&row["stderr"]),
        "card": (0..columns).map(card).collect::<Vec<_>>(),
        "alternatives": row["alternatives"].as_array().into_iter().flatten().map(alternative).collect::<Vec<_>>(),
    })
}

/// Lines of the results' table: groups, their plain means, and the tasks that are in no group.
pub(super) fn rows(run: &Run) -> Vec<Value> {
    let groups = run.groups();
    let is_group = |name: &str| groups.iter().any(|(group, ..)| group == name) || run.entry("groups", name).is_some();
    let mut rows = Vec::new();
    for (section, note) in [("groups", "by size"), ("macro_mean", "plain mean")] {
        let names = run.results().get(section).and_then(Value::as_object);
        for name in names.into_iter().flat_map(Map::keys) {
            rows.extend(lines(run, section, name, note));
        }
    }
    for name in run.results().get("results").and_then(Value::as_object).into_iter().flat_map(Map::keys) {
        if !is_group(name) && !groups.iter().any(|(_, tasks, _)| tasks.contains(name)) {
            rows.extend(lines(run, "results", name, ""));
        }
    }
    rows
}

fn lines(run: &Run, section: &str, name: &str, note: &str) -> Vec<Value> {
    let samples = run.entry("n-samples", name).and_then(|n| Some((n["effective"].as_u64()?, n["original"].as_u64()?)));
    let documents = samples.map(|(asked, all)| if asked < all { format!("{asked} of {all}") } else { all.to_string() });
    let line = |key: Key| {
        let (value, stderr) = run.figure(section, name, &key);
        json!({
            "name": name,
            "note": note,
            "group": section != "results",
            "version": run.entry("versions", name).map(text),
            "shots": run.entry("n-shot", name).map(text),
            "documents": documents,
            "filter": &*key.filter,
            "metric": &*key.metric,
            "arrow": run.higher_is_better(name, &key.metric).map(|higher| if higher { "↑" } else { "↓" }),
            "value": value.map(|v| format!("{v:.4}")),
            "stderr": stderr.map(|e| format!("{e:.4}")),
        })
    };
    run.keys(section, name).into_iter().map(line).collect()
}

/// For each group that is in no other: its tasks by the first metric that all have, sorted.
pub(super) fn charts(run: &Run) -> Vec<Value> {
    run.groups()
        .into_iter()
        .filter(|(_, _, outermost)| *outermost)
        .filter_map(|(name, tasks, _)| chart(run, &name, &tasks))
        .collect()
}

fn chart(run: &Run, name: &str, tasks: &[String]) -> Option<Value> {
    let all = |key: &Key| tasks.iter().all(|task| run.figure("results", task, key).0.is_some_and(|v| (0.0..=1.0).contains(&v)));
    let key = run.keys("results", tasks.first()?).into_iter().find(all)?;
    let mut bars: Vec<(&String, f64, Option<f64>)> = Vec::new();
    for task in tasks {
        let (value, stderr) = run.figure("results", task, &key);
        bars.push((task, value?, stderr));
    }
    bars.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    let mean = bars.iter().map(|(_, value, _)| value).sum::<f64>() / bars.len() as f64;
    let percent = |share: f64| format!("{:.2}", share.clamp(0.0, 1.0) * 100.0);
    let bar = |(task, value, stderr): &(&String, f64, Option<f64>)| {
        let error = stderr.map(|e| 1.96 * e);
        json!({
            "name": task.strip_prefix(name).map_or(task.as_str(), |rest| rest.trim_start_matches(['_', '-'])),
            "task": task,
            "width": percent(*value),
            "low": error.map(|e| percent(value - e)),
            "high": error.map(|e| percent(value + e)),
            "value": format!("{:.1}", value * 100.0),
            "error": error.map(|e| format!("{:.1}", e * 100.0)),
        })
    };
    (bars.len() > 1).then(|| {
        json!({
            "name": name,
            "metric": &*key.metric,
            "filter": (&*key.filter != "none").then_some(&*key.filter),
            "mean": percent(mean),
            "bars": bars.iter().map(bar).collect::<Vec<_>>(),
            "rows": tasks.iter().flat_map(|task| lines(run, "results", task, "")).collect::<Vec<_>>(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `date -u -d @seconds` prints them.
    #[test]
    fn dates() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_399), "2000-02-28 23:59 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(utc(1_735_689_599), "2024-12-31 23:59 UTC");
        assert_eq!(utc(1_726_000_000), "2024-09-10 20:26 UTC");
    }
}
