//! Python's `json`, where it takes what the standard does not.

use std::sync::LazyLock;

use regex::Regex;

/// Whether `json.loads` takes a text: JSON, and also the bare words NaN, Infinity and -Infinity.
pub fn is_valid(text: &str) -> bool {
    // Strings are kept as they are, so that only bare words are replaced.
    static WORDS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r#""(?:[^"\\]|\\.)*"|\b(?:NaN|Infinity)\b"#).expect("a constant"));
    let plain = WORDS.replace_all(
        text,
        |found: &regex::Captures<'_>| {
            if found[0].starts_with('"') { found[0].to_owned() } else { "1".to_owned() }
        },
    );
    serde_json::from_str::<serde::de::IgnoredAny>(&plain).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_words_of_python() {
        assert!(is_valid("[NaN, -Infinity, \"NaN \\\" x\", 1.5]") && is_valid("3") && is_valid("\"a\""));
        assert!(!is_valid("[NaNNaN]") && !is_valid("{") && !is_valid("") && !is_valid("[1,]"));
    }
}
