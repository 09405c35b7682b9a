//! Instructions about how much a text has: sentences, paragraphs, words.

use std::sync::LazyLock;

use regex::Regex;

use super::patterns::own;
use super::punkt::sentences;
use super::{Arguments, Check};
use crate::python::text::{is_space, strip};

/// Sentences, as Punkt finds them.
pub(super) fn number_sentences(arguments: &Arguments) -> Result<Check, String> {
    let bound = arguments.bound("relation", "num_sentences")?;
    Ok(Box::new(move |text| bound(sentences(text).len())))
}

/// Paragraphs between `***`; an empty one is forgiven at either end only.
pub(super) fn number_paragraphs(arguments: &Arguments) -> Result<Check, String> {
    static DIVIDER: LazyLock<Regex> = LazyLock::new(|| own(r"\s?\*\*\*\s?"));
    let number = arguments.number("num_paragraphs")?;
    Ok(Box::new(move |text| {
        let empty: Vec<bool> = DIVIDER.split(text).map(|paragraph| strip(paragraph).is_empty()).collect();
        let last = empty.len() - 1;
        let hollow = empty.iter().enumerate().any(|(index, &empty)| empty && index != 0 && index != last);
        !hollow && empty.iter().filter(|&&empty| !empty).count() == number
    }))
}

/// Words by the instruction's own measure: runs of word characters.
pub(super) static WORDS: LazyLock<Regex> = LazyLock::new(|| own(r"\w+"));

/// Words.
pub(super) fn number_words(arguments: &Arguments) -> Result<Check, String> {
    let bound = arguments.bound("relation", "num_words")?;
    Ok(Box::new(move |text| bound(WORDS.find_iter(text).count())))
}

/// As many paragraphs, between empty lines, as asked for, of which the nth begins with the word asked for.
pub(super) fn nth_paragraph_first_word(arguments: &Arguments) -> Result<Check, String> {
    let (number, nth) = (arguments.number("num_paragraphs")?, arguments.number("nth_paragraph")?);
    let wanted = arguments.text("first_word")?.to_lowercase();
    Ok(Box::new(move |text| {
        let paragraphs: Vec<&str> = text.split("\n\n").map(strip).collect();
        let filled = paragraphs.iter().filter(|paragraph| !paragraph.is_empty()).count();
        // Counted without the empty ones, but looked up with them.
        let paragraph = paragraphs.get(nth - 1).filter(|_| nth <= filled);
        let Some(word) = paragraph.and_then(|paragraph| paragraph.split(is_space).next()).filter(|word| !word.is_empty()) else {
            return false;
        };
        let word = word.trim_start_matches('\'').trim_start_matches('"');
        let word = word.split(['.', ',', '?', '!', '\'', '"']).next().unwrap_or_default();
        filled == number && word.chars().flat_map(char::to_lowercase).eq(wanted.chars())
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_nth_paragraph_counts_empty_ones() {
        let values = json!({"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Two"});
        let follows = nth_paragraph_first_word(&Arguments { id: "", values: values.as_object().unwrap() }).unwrap();
        assert!(follows("One\n\n''\"TWO's company") && !follows("One\n\n\n\nTwo") && !follows("One\n\nTwo\n\nThree"));
    }

    #[test]
    fn paragraphs_may_be_empty_at_the_ends_only() {
        let values = json!({"num_paragraphs": 2.0});
        let follows = number_paragraphs(&Arguments { id: "", values: values.as_object().unwrap() }).unwrap();
        assert!(follows("a *** b") && follows("***\na\n***\nb ***") && !follows("a *** *** b") && !follows("***"));
    }
}
