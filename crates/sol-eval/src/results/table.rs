//! The table that people know from the harness.

use super::json::higher_is_better;
use super::{Aggregate, GroupResult, TaskResult};

/// A line a figure of each task, sorted, and a line a group with its means.
pub fn table(tasks: &[TaskResult], groups: &[GroupResult]) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let figure = |name: &str, version: f64, shots: String, note: &str, f: &Aggregate| {
        let stderr = f.stderr.map_or("N/A".to_owned(), |e| format!("{e:.4}"));
        let arrow = if higher_is_better(&f.metric) { "↑" } else { "↓" };
        let metric = format!("{}{note}", f.metric);
        let value = format!("{:.4}", f.value);
        vec![name.to_owned(), format!("{version}"), f.filter.clone(), shots, metric, arrow.into(), value, "±".into(), stderr]
    };
    let mut sorted: Vec<&TaskResult> = tasks.iter().collect();
    sorted.sort_by(|a, b| a.task.name.cmp(&b.task.name));
    for t in sorted {
        let partial =
            if t.effective < t.original { format!(" (first {} of {})", t.effective, t.original) } else { String::new() };
        let name = format!("{}{partial}", t.task.name);
        rows.extend(t.figures.iter().map(|f| figure(&name, t.task.version, t.n_shot.to_string(), "", f)));
        for (part, count, figures) in &t.by {
            let name = format!(" - {part} ({count})");
            rows.extend(figures.iter().map(|f| figure(&name, t.task.version, t.n_shot.to_string(), "", f)));
        }
    }
    let mut grouped: Vec<Vec<String>> = Vec::new();
    for group in groups {
        if group.weighted {
            grouped.push(figure(&group.name, group.version, String::new(), " (by size)", &group.by_size));
        }
        grouped.push(figure(&group.name, group.version, String::new(), " (macro)", &group.macro_mean));
    }
    let head = |first: &str| {
        ["Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr"].map(str::to_owned).into_iter().fold(
            vec![first.to_owned()],
            |mut head, cell| {
                head.push(cell);
                head
            },
        )
    };
    let right = [1, 3, 6, 8];
    let mut text = grid(&head("Tasks"), &rows, &right);
    if !grouped.is_empty() {
        text += "\n";
        text += &grid(&head("Groups"), &grouped, &right);
    }
    text
}

/// A Markdown table; columns in `right` are aligned at their ends.
pub fn grid(head: &[String], rows: &[Vec<String>], right: &[usize]) -> String {
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).chain([head[i].chars().count()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &[String]| {
        let cells = row.iter().enumerate().map(|(i, cell)| {
            let pad = " ".repeat(widths[i] - cell.chars().count());
            if right.contains(&i) { pad + cell } else { format!("{cell}{pad}") }
        });
        format!("|{}|\n", cells.collect::<Vec<_>>().join("|"))
    };
    let rule = widths.iter().enumerate().map(|(i, w)| match right.contains(&i) {
        true => format!("{}:", "-".repeat(w.saturating_sub(1).max(1))),
        false => "-".repeat((*w).max(1)),
    });
    line(head) + &format!("|{}|\n", rule.collect::<Vec<_>>().join("|")) + &rows.iter().map(|row| line(row)).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let head = ["a", "bcd", ""].map(str::to_owned);
        let rows = [["x", "1", "±"], ["größer", "22", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(grid(&head, &rows, &[1]), "|a     |bcd| |\n|------|--:|-|\n|x     |  1|±|\n|größer| 22| |\n");
    }
}
