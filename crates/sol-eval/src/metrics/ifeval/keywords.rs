//! Instructions about words and letters that a text must or must not have.

use super::patterns::Caseless;
use super::words::words;
use super::{Arguments, Check};
use crate::python::Random;
use crate::python::text::{is_upper, strip};

/// Every keyword is found.
pub(super) fn existence(arguments: &Arguments) -> Result<Check, String> {
    let keywords = arguments.texts("keywords")?.into_iter().map(Caseless::new).collect::<Result<Vec<_>, _>>()?;
    Ok(Box::new(move |text| keywords.iter().all(|keyword| keyword.is_found(text))))
}

/// A keyword is found often or seldom enough.
pub(super) fn frequency(arguments: &Arguments) -> Result<Check, String> {
    let bound = arguments.bound("relation", "frequency")?;
    let keyword = Caseless::new(strip(arguments.text("keyword")?))?;
    Ok(Box::new(move |text| bound(keyword.count(text))))
}

/// No forbidden word is found as a word of its own.
pub(super) fn forbidden_words(arguments: &Arguments) -> Result<Check, String> {
    let words = arguments.texts("forbidden_words")?;
    let words = words.into_iter().map(ForbiddenWord::new).collect::<Result<Vec<_>, _>>()?;
    Ok(Box::new(move |text| !words.iter().any(|word| word.is_found(text))))
}

struct ForbiddenWord {
    pattern: Caseless,
    /// Whether it is a pattern, which has its boundaries within itself as the `regex` crate sees them.
    bounded: bool,
}

impl ForbiddenWord {
    fn new(word: &str) -> Result<Self, String> {
        let bounded = word.contains(|c| r"\.+*?()|[]{}^$".contains(c));
        let pattern = if bounded { Caseless::new(&format!(r"\b{word}\b")) } else { Caseless::new(word) };
        Ok(Self { pattern: pattern?, bounded })
    }

    fn is_found(&self, text: &str) -> bool {
        if self.bounded { self.pattern.is_found(text) } else { self.pattern.is_found_as_word(text) }
    }
}

/// A letter, in either case, is found often or seldom enough. What is no letter from a to z is replaced by a random one.
pub(super) fn letter_frequency(arguments: &Arguments, random: &mut Random) -> Result<Check, String> {
    const LETTERS: &[u8; 26] = b"abcdefghijklmnopqrstuvwxyz";
    let bound = arguments.bound("let_relation", "let_frequency")?;
    let letter = match arguments.text("letter")?.to_lowercase().as_bytes() {
        &[letter @ b'a'..=b'z'] => letter,
        // The harness chooses from the letters in lower case, then in upper case, and lowers what it drew.
        _ => LETTERS[random.choice(2 * LETTERS.len()) % LETTERS.len()],
    };
    let letter = char::from(letter);
    Ok(Box::new(move |text| bound(text.to_lowercase().chars().filter(|&c| c == letter).count())))
}

/// Words all in capitals are found often or seldom enough.
pub(super) fn capital_word_frequency(arguments: &Arguments) -> Result<Check, String> {
    let bound = arguments.bound("capital_relation", "capital_frequency")?;
    Ok(Box::new(move |text| bound(words(text).iter().filter(|word| is_upper(word)).count())))
}
