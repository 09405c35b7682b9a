//! EQ-Bench (Paech, arXiv 2312.06281), version 2: how close four rated emotions come to the reference's.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use crate::data::Row;
use crate::python::literal_eval;

static RATING: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(\w+):\s+(\d+)").expect("a constant"));

/// Emotions that a reference rates.
const EMOTIONS: usize = 4;

/// The score (100 at best, and below 0 where ratings are far off), and whether the answer could be read. One that can not, or that
/// rates other emotions than the row's `reference_answer_fullscale`, earns 0.
pub(super) fn score(row: &Row, text: &str) -> Result<(f64, bool), String> {
    let reference = reference(row)?;
    // A repeated name keeps its place and takes the later number.
    let mut ratings: Vec<(&str, f64)> = Vec::new();
    for found in RATING.captures_iter(text) {
        let (_, [name, digits]) = found.extract();
        let Some(rating) = number(digits) else { return Ok((0.0, false)) };
        match ratings.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = rating,
            None => ratings.push((name, rating)),
        }
    }
    if ratings.len() != EMOTIONS {
        return Ok((0.0, false));
    }
    let mut tally = 0.0;
    for (name, rating) in ratings {
        let Some((_, wanted)) = reference.iter().find(|(known, _)| known == name) else { return Ok((0.0, false)) };
        tally += penalty((rating - wanted).abs());
    }
    Ok((10.0 * (10.0 - tally * ADJUST), true))
}

/// Makes an answer without any thought earn 0.
const ADJUST: f64 = 0.7477;

/// Small differences count for less, along a sigmoid.
fn penalty(difference: f64) -> f64 {
    if difference == 0.0 {
        0.0
    } else if difference <= 5.0 {
        6.5 * (1.0 / (1.0 + std::f64::consts::E.powf(-1.2 * (difference - 4.0))))
    } else {
        difference
    }
}

/// Digits of any script, as Python reads them.
fn number(digits: &str) -> Option<f64> {
    let ascii: Option<String> = digits.chars().map(|c| digit(c).and_then(|d| char::from_digit(d, 10))).collect();
    ascii?.parse().ok()
}

/// Value of a character of Unicode's category Nd: its digits come in runs of ten from 0 to 9.
fn digit(c: char) -> Option<u32> {
    static ND: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\d$").expect("a constant"));
    let is_digit = |code: u32| char::from_u32(code).is_some_and(|c| ND.is_match(c.encode_utf8(&mut [0; 4])));
    if c.is_ascii_digit() {
        return c.to_digit(10);
    }
    let mut run = 0;
    while run < 50 && is_digit((c as u32).checked_sub(run + 1)?) {
        run += 1;
    }
    is_digit(c as u32).then_some(run % 10)
}

fn reference(row: &Row) -> Result<Vec<(String, f64)>, String> {
    let column = "reference_answer_fullscale";
    let wrong = || format!("the column '{column}' is no Python dict of {EMOTIONS} emotions and their scores");
    let text = row.get(column).and_then(Value::as_str).ok_or_else(wrong)?;
    let dict = literal_eval(text).ok_or_else(wrong)?;
    let rating = |i: usize| {
        let name = dict.get(format!("emotion{i}"))?.as_str()?.to_owned();
        let score = dict.get(format!("emotion{i}_score"))?;
        Some((name, score.as_f64().or_else(|| score.as_str()?.trim().parse().ok())?))
    };
    (1..=EMOTIONS).map(rating).collect::<Option<_>>().ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> (f64, bool) {
        let reference = "{'emotion1': 'Joy', 'emotion2': 'Fear', 'emotion3': 'Anger', 'emotion4': 'Pride', \
            'emotion1_score': 0, 'emotion2_score': '6', 'emotion3_score': 0, 'emotion4_score': 7}";
        let row = serde_json::json!({ "reference_answer_fullscale": reference });
        score(row.as_object().unwrap(), text).unwrap()
    }

    /// The second value is the harness's, of a document with the same reference.
    #[test]
    fn ratings() {
        assert_eq!(of("Joy: 0\nFear: 6\nAnger: 0\nPride: 7"), (100.0, true));
        let (value, read) = of("Joy: 1\nFear: 7\nAnger: 1\nPride: 8");
        assert!((value - 94.829_491_254_670_13).abs() < 1e-9 && read);
        assert_eq!(of("Joy: 9\nJoy: 0\nFear: ٦\nAnger: 0\nPride: 7"), (100.0, true));
        assert_eq!(of("**Joy**: 0\nFear: 6\nAnger: 0\nPride: 7"), (0.0, false));
        assert_eq!(of("Joy: 0\nFear: 6\nAnger: 0\nShame: 7"), (0.0, false));
        assert_eq!(of("Joy: 0\nFear: 6\nAnger: 0\nPride: -7"), (0.0, false));
        assert_eq!(of(""), (0.0, false));
    }
}
