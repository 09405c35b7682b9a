//! Instructions about a text as a whole: its language and case, how it begins and ends, what it is put together from.

use super::langdetect::detect;
use super::{Arguments, Check};
use crate::python::text::{is_lower, is_upper, strip};

/// The language asked for; a text that no language can be told of passes.
pub(super) fn response_language(arguments: &Arguments) -> Result<Check, String> {
    let language = arguments.text("language")?.to_owned();
    Ok(Box::new(move |text| detect(text).is_none_or(|detected| detected == language)))
}

/// English in capitals.
pub(super) fn english_capital(text: &str) -> bool {
    is_upper(text) && is_english(text)
}

/// English without capitals.
pub(super) fn english_lowercase(text: &str) -> bool {
    is_lower(text) && is_english(text)
}

fn is_english(text: &str) -> bool {
    detect(text).is_none_or(|detected| detected == "en")
}

/// Two different answers with six asterisks between them.
pub(super) fn two_responses(text: &str) -> bool {
    let pieces: Vec<&str> = text.split("******").map(strip).collect();
    let filled: Vec<&&str> = pieces.iter().filter(|piece| !piece.is_empty()).collect();
    let hollow = pieces.iter().skip(1).rev().skip(1).any(|piece| piece.is_empty());
    !hollow && filled.len() == 2 && filled[0] != filled[1]
}

/// The request itself first.
pub(super) fn repeat_prompt(arguments: &Arguments) -> Result<Check, String> {
    let prompt = strip(arguments.text("prompt_to_repeat")?).to_lowercase();
    Ok(Box::new(move |text| strip(text).to_lowercase().starts_with(&prompt)))
}

/// A phrase at the very end, but for quotes.
pub(super) fn end_checker(arguments: &Arguments) -> Result<Check, String> {
    let phrase = strip(arguments.text("end_phrase")?).to_lowercase();
    Ok(Box::new(move |text| strip(text).trim_matches('"').to_lowercase().ends_with(&phrase)))
}

/// Wrapped in double quotes.
pub(super) fn quotation(text: &str) -> bool {
    let text = strip(text);
    text.len() > 1 && text.starts_with('"') && text.ends_with('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_responses_differ() {
        assert!(two_responses("a ****** b") && two_responses("******a******b******\n") && !two_responses("a****** a"));
        assert!(!two_responses("a****** ******b") && !two_responses("a") && !two_responses("******"));
    }

    #[test]
    fn quotes_need_two_signs() {
        assert!(quotation(" \"\" ") && !quotation("\"") && !quotation("\"a"));
    }
}
