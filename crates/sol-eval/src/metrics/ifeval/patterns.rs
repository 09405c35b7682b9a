//! Python's `re` on `str`, by the `regex` crate.
//!
//! The two differ in what a word character is (Python: letters, numbers of every kind and `_`, no combining marks), in what a
//! space is (Python: also U+001C..U+001F) and in what `i` matches whatever its case (Python: also `İ` and `ı`).

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Match, Regex, RegexBuilder};

/// Python's `\w`.
pub(super) const WORD: &str = r"[\p{L}\p{N}_]";
/// Python's `\s`.
pub(super) const SPACE: &str = r"[\s\x1c-\x1f]";

/// A pattern of this crate's own, in Python's spelling.
pub(super) fn own(pattern: &str) -> Regex {
    python(pattern).expect("patterns of the source text compile")
}

/// A pattern in Python's spelling. Fails on what the `regex` crate can not do: look-around, back-references and the like.
pub(super) fn python(pattern: &str) -> Result<Regex, String> {
    compile(pattern, false)
}

fn compile(pattern: &str, caseless: bool) -> Result<Regex, String> {
    let mut translated = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars();
    let mut in_class = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('w') => translated.push_str(WORD),
                Some('W') => translated.push_str(r"[^\p{L}\p{N}_]"),
                Some('s') => translated.push_str(SPACE),
                Some('S') => translated.push_str(r"[^\s\x1c-\x1f]"),
                Some('Z') => translated.push_str(r"\z"),
                Some(escaped) => translated.extend(['\\', escaped]),
                None => translated.push('\\'),
            },
            '[' if !in_class => {
                in_class = true;
                translated.push('[');
                // `]` stands for itself at the head of a class, as in `regex`.
                let rest = chars.as_str();
                let head = if rest.starts_with("^]") { 2 } else { usize::from(rest.starts_with(['^', ']'])) };
                translated.push_str(&rest[..head]);
                chars = rest[head..].chars();
            }
            ']' if in_class => {
                in_class = false;
                translated.push(']');
            }
            // `regex` has set operations inside of classes, which Python has not.
            '[' | '&' | '~' if in_class => translated.extend(['\\', c]),
            _ => translated.push(c),
        }
    }
    let compiled = RegexBuilder::new(&translated).case_insensitive(caseless).build();
    compiled.map_err(|error| format!("'{pattern}' is no pattern that can be searched for: {error}"))
}

/// A pattern of a task's, to be searched for whatever the case (`re.IGNORECASE`).
pub(super) struct Caseless(Regex);

impl Caseless {
    /// Fails as [`python`] does.
    pub(super) fn new(pattern: &str) -> Result<Self, String> {
        compile(&one_i(pattern), true).map(Self)
    }

    /// `len(re.findall(…))`.
    pub(super) fn count(&self, text: &str) -> usize {
        self.0.find_iter(&one_i(text)).count()
    }

    /// Whether it is found.
    pub(super) fn is_found(&self, text: &str) -> bool {
        self.0.is_match(&one_i(text))
    }

    /// Whether it is found between two boundaries (`\b…\b`). A pattern of a fixed text only.
    pub(super) fn is_found_as_word(&self, text: &str) -> bool {
        let text = one_i(text);
        find_from(&self.0, &text, 0, |found| is_boundary(&text, found.start()) && is_boundary(&text, found.end())).is_some()
    }
}

fn one_i(text: &str) -> Cow<'_, str> {
    if text.contains(['İ', 'ı']) { text.replace(['İ', 'ı'], "i").into() } else { text.into() }
}

/// The first match from `from` on that is `accepted`; matches may overlap rejected ones.
pub(super) fn find_from<'t>(
    regex: &Regex,
    text: &'t str,
    mut from: usize,
    accepted: impl Fn(&Match<'t>) -> bool,
) -> Option<Match<'t>> {
    while from <= text.len() {
        let found = regex.find_at(text, from)?;
        if accepted(&found) {
            return Some(found);
        }
        from = found.start() + text[found.start()..].chars().next().map_or(1, char::len_utf8);
    }
    None
}

/// Python's `\b` at a byte position of `text`.
pub(super) fn is_boundary(text: &str, at: usize) -> bool {
    text[..at].chars().next_back().is_some_and(is_word) != text[at..].chars().next().is_some_and(is_word)
}

/// Python's `\w`.
pub(super) fn is_word(c: char) -> bool {
    static WORDS: LazyLock<Regex> = LazyLock::new(|| own(r"\w"));
    if c.is_ascii() { c.is_ascii_alphanumeric() || c == '_' } else { WORDS.is_match(c.encode_utf8(&mut [0; 4])) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_pythons() {
        assert!(is_word('²') && is_word('é') && is_word('_') && !is_word('\u{94d}') && !is_word('‿'));
        assert_eq!(own(r"\w+").find_iter("हिन्दी").count(), 3);
        assert!(own(r"^[\w-]+\s[\W]$").is_match("a-b\u{1c}!"));
        assert!(own(r"^[[&~]+$").is_match("[&~"));
        assert!(own(r"^[]a][^]]$").is_match("]b"));
        for hostile in ["(", "[", "\\", "a{2", "(?=x)", "(?P<n>a)(?P=n)", "*"] {
            let _ = python(hostile);
        }
        assert!(python("(").is_err() && python("\\").is_err() && python("(?=x)").is_err());
    }

    #[test]
    fn case_is_ignored_as_python_does() {
        let dotless = Caseless::new("Kı").unwrap();
        assert_eq!(dotless.count("kI Ki \u{212a}İ kı ki"), 5);
        assert!(Caseless::new("strasse").unwrap().is_found("ſtraſſe") && !Caseless::new("ss").unwrap().is_found("ß"));
    }

    #[test]
    fn words_end_where_pythons_end() {
        let car = Caseless::new("car").unwrap();
        assert!(car.is_found_as_word("scar CAR") && !car.is_found_as_word("cars scar car2 car_"));
        assert!(car.is_found_as_word("car\u{94d}"));
        assert!(!Caseless::new("aa").unwrap().is_found_as_word("aaa"));
        assert!(Caseless::new("-a").unwrap().is_found_as_word("x-a") && !Caseless::new("-a").unwrap().is_found_as_word("-a"));
    }
}
