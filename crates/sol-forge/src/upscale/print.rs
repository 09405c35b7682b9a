//! A plan as a picture: one line for every run of layers, a bar where its sources are, skip connections as arcs.

use std::fmt::Write as _;

use super::{Part, Plan};

/// The picture, in lines of at most about `width` characters.
pub fn picture(plan: &Plan, width: usize) -> String {
    let runs = plan.runs();
    let n = plan.base_layers();
    let labels: Vec<String> = runs.iter().map(|&(first, count)| range(first, count)).collect();
    let notes: Vec<String> = runs.iter().map(|&(first, _)| note(plan, first)).collect();
    let label_width = labels.iter().map(String::len).max().unwrap_or(0).max("layers".len());
    let note_width = notes.iter().map(|note| note.chars().count()).max().unwrap_or(0);
    let arcs = if plan.skips().is_empty() { 0 } else { 8 };
    // Columns of the bar: one for a layer of the base, or one for several.
    let room = width.saturating_sub(label_width + note_width + arcs + 2 * RANGE + 6).max(8);
    let each = n.div_ceil(room);
    let columns = n.div_ceil(each);

    let mut text =
        format!("{:label_width$}  {:width$}  {:RANGE$}\n", "layers", axis(n, each, columns), "source", width = columns);
    let mut open = [false, false];
    for ((&(first, count), label), note) in runs.iter().zip(&labels).zip(&notes) {
        let source = plan.layers()[first].source;
        let (from, to) = (source / each, (source + count - 1) / each);
        let bar: String = (0..columns).map(|column| if (from..=to).contains(&column) { bar(plan, first) } else { '·' }).collect();
        let arc = arc(plan, first, &mut open);
        let line = format!("{label:>label_width$}  {bar}  {:RANGE$}  {arc:arcs$}{note}", range(source, count));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Width of the sources' numbers.
const RANGE: usize = 7;

fn range(first: usize, count: usize) -> String {
    if count == 1 { first.to_string() } else { format!("{first}-{}", first + count - 1) }
}

/// Zero and every tenth column's layer.
fn axis(n: usize, each: usize, columns: usize) -> String {
    let mut text = String::new();
    for column in (0..columns).step_by(10) {
        let number = (column * each).to_string();
        if column + number.len() <= columns.max(n.min(columns)) {
            let _ = write!(text, "{number:<10}");
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// Full where the layer is as in the base, lighter where it adds less, hollow where it adds nothing.
fn bar(plan: &Plan, layer: usize) -> char {
    let layer = &plan.layers()[layer];
    match layer.scales[..] {
        [] => '█',
        _ if layer.is_silent() => '░',
        _ => '▒',
    }
}

fn note(plan: &Plan, layer: usize) -> String {
    let layer = &plan.layers()[layer];
    if layer.is_silent() {
        return "adds nothing".into();
    }
    // The usual pair in few letters.
    let [o, down] = [Part::O_PROJ, Part::DOWN_PROJ].map(|part| layer.scale(part));
    if layer.scales.len() == 2 && o == down && o != 1.0 {
        return format!("x {o}");
    }
    let factors: Vec<String> = layer.scales.iter().map(|(part, factor)| format!("{} x {factor}", part.name())).collect();
    factors.join(", ")
}

/// The arcs at the line of a run: `●` where the stream is saved, `◀` where it is blended with what was.
fn arc(plan: &Plan, first: usize, open: &mut [bool; 2]) -> String {
    let skips = plan.skips_of(first);
    let ends_here = |slot: usize| {
        let next_save = plan.skips().iter().filter(|s| s.slot == slot && s.from > first).map(|s| s.from).min();
        !plan.skips().iter().any(|s| s.slot == slot && s.to > first && next_save.is_none_or(|next| s.from < next))
    };
    let mut marks = [' ', ' '];
    for slot in 0..2 {
        let was_open = open[slot];
        if skips.save[slot] {
            open[slot] = true;
            marks[slot] = '╮';
        } else if skips.blend[slot] {
            open[slot] = !ends_here(slot);
            marks[slot] = if open[slot] { '┤' } else { '╯' };
        } else if was_open {
            marks[slot] = '│';
        }
    }
    let touched = |slot: usize| skips.save[slot] || skips.blend[slot];
    if !touched(0) && !touched(1) {
        return format!("   {} {}", marks[0], marks[1]);
    }
    let end = if skips.blend.contains(&true) { '◀' } else { '●' };
    let inner = match (touched(0), touched(1), marks[0]) {
        (false, true, '│') => '┼',
        (false, true, _) => '─',
        (true, true, '╮') => '┬',
        (true, true, '╯') => '┴',
        (_, _, mark) => mark,
    };
    let between = if touched(1) { '─' } else { ' ' };
    format!("{end}──{inner}{between}{}", marks[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upscale::Recipe;

    #[test]
    fn solar_pro_as_a_picture() {
        let plan = Recipe::SolarPro { tv: [0.9, 0.8] }.plan(40).unwrap();
        let expected = "\
layers  0         10        20        30          source
  0-11  ████████████····························  0-11
 12-15  ············████························  12-15    ●──╮
 16-19  ············████························  12-15    ◀──╯
 20-23  ················████····················  16-19    ●──┬─╮
 24-27  ················████····················  16-19    ◀──╯ │
 28-31  ················████····················  16-19    ◀────╯
 32-35  ····················████················  20-23    ●──┬─╮
 36-39  ····················████················  20-23    ◀──╯ │
 40-43  ····················████················  20-23    ◀────╯
 44-47  ························████············  24-27    ●──╮
 48-63  ························████████████████  24-39    ◀──╯
";
        assert_eq!(picture(&plan, 100).lines().map(|line| line.trim_end().to_owned() + "\n").collect::<String>(), expected);
    }

    #[test]
    fn every_plan_has_a_picture_that_fits() {
        for n in 1..200 {
            let recipes = [
                Recipe::Dus { drop: None },
                Recipe::SolarPro { tv: [1.0, 1.0] },
                Recipe::Interleave { layers: None, block: 1, scale: None },
                Recipe::Identity { layers: None },
            ];
            for plan in recipes.iter().filter_map(|recipe| recipe.plan(n).ok()) {
                let text = picture(&plan, 80);
                assert!(text.lines().all(|line| line.chars().count() <= 84), "{text}");
                assert_eq!(text.lines().count(), plan.runs().len() + 1);
            }
        }
    }
}
