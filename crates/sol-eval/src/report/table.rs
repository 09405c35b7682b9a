//! Plain-text tables, as the harness prints them.

/// Rows under a head; columns with `right` set are flush right.
pub(super) fn table(head: &[&str], right: &[bool], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let width = |i: usize| std::iter::once(&head).chain(rows).map(|row| row[i].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).zip(right).map(|((cell, w), right)| match right {
            true => format!("{cell:>w$}"),
            false => format!("{cell:<w$}"),
        });
        format!("|{}|\n", cells.collect::<Vec<_>>().join("|"))
    };
    let rule = |(w, right): (&usize, &bool)| match (right, w) {
        (true, 1..) => format!("{}:", "-".repeat(w - 1)),
        _ => "-".repeat(*w),
    };
    let rule: Vec<String> = widths.iter().zip(right).map(rule).collect();
    let rows: String = rows.iter().map(line).collect();
    format!("{}|{}|\n{rows}", line(&head), rule.join("|"))
}
