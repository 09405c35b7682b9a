//! Instructions about how a text is laid out.

use std::sync::LazyLock;

use regex::Regex;

use super::patterns::{own, python};
use super::{Arguments, Check};
use crate::python::json;
use crate::python::text::strip;

/// Enough `[placeholders]`.
pub(super) fn number_placeholders(arguments: &Arguments) -> Result<Check, String> {
    static PLACEHOLDER: LazyLock<Regex> = LazyLock::new(|| own(r"\[.*?\]"));
    let number = arguments.number("num_placeholders")?;
    Ok(Box::new(move |text| PLACEHOLDER.find_iter(text).count() >= number))
}

/// A postscript under the marker asked for; `P.S.` and `P.P.S` may have spaces inside.
pub(super) fn postscript(arguments: &Arguments) -> Result<Check, String> {
    let pattern = match strip(arguments.text("postscript_marker")?) {
        "P.P.S" => own(r"p\.\s?p\.\s?s"),
        "P.S." => own(r"p\.\s?s\."),
        marker => python(&marker.to_lowercase())?,
    };
    Ok(Box::new(move |text| pattern.is_match(&text.to_lowercase())))
}

/// As many lines that begin with `*` or `-` as asked for.
pub(super) fn number_bullet_lists(arguments: &Arguments) -> Result<Check, String> {
    static STARS: LazyLock<Regex> = LazyLock::new(|| own(r"(?m)^\s*\*[^\*].*$"));
    static DASHES: LazyLock<Regex> = LazyLock::new(|| own(r"(?m)^\s*-.*$"));
    let number = arguments.number("num_bullets")?;
    Ok(Box::new(move |text| STARS.find_iter(text).count() + DASHES.find_iter(text).count() == number))
}

/// One of the three answers.
pub(super) fn constrained_response(text: &str) -> bool {
    ["My answer is yes.", "My answer is no.", "My answer is maybe."].iter().any(|answer| text.contains(answer))
}

/// Enough `*highlighted*` or `**highlighted**` passages. The first pattern sees `**` as an empty highlight, so a bold one counts
/// once.
pub(super) fn number_highlighted_sections(arguments: &Arguments) -> Result<Check, String> {
    static SINGLE: LazyLock<Regex> = LazyLock::new(|| own(r"\*[^\n\*]*\*"));
    static DOUBLE: LazyLock<Regex> = LazyLock::new(|| own(r"\*\*[^\n\*]*\*\*"));
    let number = arguments.number("num_highlights")?;
    let filled = |regex: &Regex, text: &str| {
        regex.find_iter(text).filter(|found| !strip(found.as_str().trim_matches('*')).is_empty()).count()
    };
    Ok(Box::new(move |text| filled(&SINGLE, text) + filled(&DOUBLE, text) >= number))
}

/// Enough sections that are headed by a word and a number.
pub(super) fn multiple_sections(arguments: &Arguments) -> Result<Check, String> {
    let number = arguments.number("num_sections")?;
    let header = python(&format!(r"\s?{}\s?\d+\s?", strip(arguments.text("section_spliter")?)))?;
    // Python's split gives the groups of the pattern as pieces, too.
    Ok(Box::new(move |text| header.find_iter(text).count() * header.captures_len() >= number))
}

/// JSON, in a fence or not.
pub(super) fn json_format(text: &str) -> bool {
    let mut text = strip(text);
    for fence in ["```json", "```Json", "```JSON", "```"] {
        text = text.strip_prefix(fence).unwrap_or(text);
    }
    json::is_valid(strip(text.strip_suffix("```").unwrap_or(text)))
}

/// A `<<title>>`.
pub(super) fn title(text: &str) -> bool {
    static TITLE: LazyLock<Regex> = LazyLock::new(|| own(r"<<[^\n]+>>"));
    let filled = |title: &str| !strip(title.trim_start_matches('<').trim_end_matches('>')).is_empty();
    TITLE.find_iter(text).any(|title| filled(title.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn follows(make: fn(&Arguments) -> Result<Check, String>, values: Value, text: &str) -> bool {
        make(&Arguments { id: "", values: values.as_object().unwrap() }).unwrap()(text)
    }

    #[test]
    fn bold_counts_once() {
        let two = || json!({"num_highlights": 2});
        assert!(!follows(number_highlighted_sections, two(), "**one** ** ** *a\nb*"));
        assert!(follows(number_highlighted_sections, two(), "**one** *two*"));
    }

    #[test]
    fn bullets_may_begin_after_empty_lines() {
        assert!(follows(number_bullet_lists, json!({"num_bullets": 3}), "* a\n\n  - b\n** c\n-\n"));
    }

    #[test]
    fn postscripts() {
        assert!(follows(postscript, json!({"postscript_marker": "P.S."}), "Bye\np. S. again"));
        assert!(follows(postscript, json!({"postscript_marker": "P.P.S"}), "P.P. S"));
        assert!(!follows(postscript, json!({"postscript_marker": "P.P.S"}), "P.S."));
        assert!(follows(postscript, json!({"postscript_marker": " PS "}), "hops"));
    }

    #[test]
    fn sections_need_a_number() {
        assert!(follows(multiple_sections, json!({"section_spliter": "Day", "num_sections": 2}), "Day 1 a Day2"));
        assert!(!follows(multiple_sections, json!({"section_spliter": "Day", "num_sections": 2}), "Day 1 a day 2 Day x"));
    }

    #[test]
    fn titles() {
        assert!(title("x <<a>> y") && !title("<< >>") && !title("<<a\nb>>") && title("<<<>>> <<b>>"));
    }

    #[test]
    fn fences_are_taken_off() {
        assert!(json_format("```json\n{\"a\": NaN}\n```") && json_format(" 3 ") && !json_format("``` {a: 1} ```"));
    }
}
