//! Sentences, as NLTK's Punkt (Kiss and Strunk, 2006) with its English parameters finds them.
//!
//! Every `.`, `?` and `!` before a space or a closing sign may end a sentence. What stands around it is cut into tokens, and the
//! token with the sign ends a sentence unless it is an abbreviation, an initial or a number, by the tables and by how the next
//! token is written. Closing quotes and brackets that follow go with the sentence they close.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use regex::Regex;

use super::{inflate, patterns};
use crate::python::text::{is_space, rstrip, strip};

/// Signs that a word can not contain.
const NON_WORD: &str = ")\";}]*:@'({[?!";
/// Signs that a word can not begin with.
const NOT_AT_START: &str = "(\"`{[:;&#*@)}]-,";
const CLOSING: &str = "\"')]}";

/// How a word was written in the training texts: bits of `ortho_context.tab`.
const MIDDLE_UPPER: u8 = 1 << 2;
const ANY_UPPER: u8 = 1 << 1 | MIDDLE_UPPER | 1 << 3;
const BEGIN_LOWER: u8 = 1 << 4;
const ANY_LOWER: u8 = BEGIN_LOWER | 1 << 5 | 1 << 6;

struct Parameters {
    abbreviations: HashSet<&'static str>,
    collocations: HashSet<(&'static str, &'static str)>,
    starters: HashSet<&'static str>,
    contexts: HashMap<&'static str, u8>,
}

static PARAMETERS: LazyLock<Parameters> = LazyLock::new(|| {
    static TABLES: LazyLock<String> = LazyLock::new(|| {
        let bytes = inflate(include_bytes!("../../../data/punkt_english.z"));
        String::from_utf8(bytes).expect("the embedded Punkt tables are UTF-8")
    });
    let mut lines = TABLES.lines();
    let mut section = || lines.by_ref().take_while(|line| !line.is_empty()).collect::<Vec<_>>();
    Parameters {
        abbreviations: section().into_iter().collect(),
        collocations: section().iter().filter_map(|line| line.split_once('\t')).collect(),
        starters: section().into_iter().collect(),
        contexts: (section().iter())
            .filter_map(|line| line.split_once('\t'))
            .filter_map(|(word, bits)| Some((word, bits.parse().ok()?)))
            .collect(),
    }
});

/// The sentences of a text, without the space between them.
pub(super) fn sentences(text: &str) -> Vec<&str> {
    let breaks = sentence_breaks(text);
    let mut raw = Vec::with_capacity(breaks.len() + 1);
    let mut start = 0;
    for (end, next) in breaks {
        raw.push((start, end));
        start = next;
    }
    raw.push((start, rstrip(text).len()));

    // Closing signs at the head of a sentence belong to the one before; `taken` counts the bytes that went there.
    let mut sentences = Vec::with_capacity(raw.len());
    let mut taken = 0;
    for (index, &(start, end)) in raw.iter().enumerate() {
        let start = start + taken;
        let next = raw.get(index + 1);
        let closed = next.and_then(|&(from, to)| Some((from, closing_signs(text.get(from..to)?)?)));
        if let Some((from, (signs, with_space))) = closed {
            sentences.push(text.get(start..from + signs).unwrap_or_default());
            taken = with_space;
        } else {
            sentences.extend(text.get(start..end).filter(|sentence| !sentence.is_empty()));
            taken = 0;
        }
    }
    sentences
}

/// Bytes of the closing signs at the head of a sentence that nothing else follows directly, without and with the space behind
/// them.
fn closing_signs(sentence: &str) -> Option<(usize, usize)> {
    let rest = sentence.trim_start_matches(|c| CLOSING.contains(c));
    let signs = sentence.len() - rest.len();
    let behind = rest.trim_start_matches(is_space);
    let stands_alone = rest.is_empty() || behind.len() < rest.len() || rest.starts_with("--");
    (signs > 0 && stands_alone).then_some((signs, sentence.len() - behind.len()))
}

/// Where sentences end, and where the next one starts.
fn sentence_breaks(text: &str) -> Vec<(usize, usize)> {
    let mut breaks = Vec::new();
    let mut decide = |candidate: &Candidate| {
        if ends_sentence(&text[candidate.word..candidate.context_end]) {
            breaks.push((candidate.sign + 1, candidate.next));
        }
    };
    let mut previous: Option<Candidate> = None;
    for (sign, _) in text.match_indices(['.', '?', '!']) {
        let Some((context_end, next)) = behind_sign(text, sign) else { continue };
        let (word_before, from) = previous.as_ref().map_or((0, 0), |previous| (previous.word, previous.sign));
        let space = text[from..sign].rfind([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
        let word = match space {
            // A space at the very beginning of the text is not seen.
            None | Some(0) => word_before,
            Some(space) => from + space + 1,
        };
        // Of several signs in one word, the last one is looked at.
        if let Some(previous) = previous.take_if(|previous| previous.sign <= word) {
            decide(&previous);
        }
        previous = Some(Candidate { word, sign, context_end, next });
    }
    if let Some(last) = previous {
        decide(&last);
    }
    breaks
}

/// A sign that may end a sentence: byte positions of the word before it, of itself, of the end of what is looked at and of what
/// would be the next sentence.
struct Candidate {
    word: usize,
    sign: usize,
    context_end: usize,
    next: usize,
}

/// The end of what is looked at behind a sign, and where the next sentence would start; `None` where no sentence can end.
fn behind_sign(text: &str, sign: usize) -> Option<(usize, usize)> {
    let rest = &text[sign + 1..];
    let first = rest.chars().next()?;
    if NON_WORD.contains(first) {
        return Some((sign + 1 + first.len_utf8(), sign + 1));
    }
    let token = rest.trim_start_matches(is_space);
    if token.len() == rest.len() || token.is_empty() {
        return None;
    }
    let start = text.len() - token.len();
    Some((start + token.find(is_space).unwrap_or(token.len()), start))
}

struct Token {
    text: String,
    /// In lower case; `##number##` for numbers.
    kind: String,
    abbreviation: bool,
    ellipsis: bool,
    ends: bool,
}

impl Token {
    fn new(text: String) -> Self {
        static NUMBER: LazyLock<Regex> = LazyLock::new(|| patterns::own(r"^-?[.,]?\d[\d,.\-]*$"));
        let lower = text.to_lowercase();
        let dots = text.chars().all(|c| c == '.');
        let mut token = Self { abbreviation: false, ellipsis: dots && text.len() > 1, ends: false, kind: String::new(), text };
        if matches!(token.text.as_str(), "." | "?" | "!") {
            token.ends = true;
        } else if token.text.ends_with('.') && !token.text.ends_with("..") {
            let word = token.text[..token.text.len() - 1].to_lowercase();
            let known = |word: &str| PARAMETERS.abbreviations.contains(word);
            token.abbreviation = known(&word) || word.rsplit('-').next().is_some_and(known);
            token.ends = !token.abbreviation;
        }
        token.kind = if NUMBER.is_match(&lower) { "##number##".to_owned() } else { lower };
        token
    }

    fn kind_without_period(&self) -> &str {
        self.kind.strip_suffix('.').filter(|kind| !kind.is_empty()).unwrap_or(&self.kind)
    }

    fn kind_as_next(&self) -> &str {
        if self.ends { self.kind_without_period() } else { &self.kind }
    }

    fn starts(&self, case: fn(char) -> bool) -> bool {
        self.text.chars().next().is_some_and(case)
    }

    fn context(&self) -> u8 {
        PARAMETERS.contexts.get(self.kind_as_next()).copied().unwrap_or(0)
    }

    /// Whether its spelling says that a sentence starts here; `None` where it says nothing.
    fn starts_sentence(&self) -> Option<bool> {
        let context = self.context();
        if matches!(self.text.as_str(), ";" | ":" | "," | "." | "!" | "?") {
            Some(false)
        } else if self.starts(char::is_uppercase) && context & ANY_LOWER != 0 && context & MIDDLE_UPPER == 0 {
            Some(true)
        } else if self.starts(char::is_lowercase) && (context & ANY_UPPER != 0 || context & BEGIN_LOWER == 0) {
            Some(false)
        } else {
            None
        }
    }

    /// Thinks again about a token's end in the light of the next one.
    fn revise(&mut self, next: &Token) {
        static INITIAL: LazyLock<Regex> = LazyLock::new(|| patterns::own(r"^[\p{L}\p{Nl}\p{No}_]\.$"));
        if !self.text.ends_with('.') {
            return;
        }
        let (kind, next_kind) = (self.kind_without_period(), next.kind_as_next());
        let initial = INITIAL.is_match(&self.text);
        let upper = next.starts(char::is_uppercase);
        if PARAMETERS.collocations.contains(&(kind, next_kind)) {
            self.ends = false;
            return;
        }
        let starts = next.starts_sentence();
        if (self.abbreviation || self.ellipsis)
            && !initial
            && (starts == Some(true) || upper && PARAMETERS.starters.contains(next_kind))
        {
            self.ends = true;
        } else if initial || kind == "##number##" {
            let always_upper = initial && upper && next.context() & ANY_LOWER == 0;
            if starts == Some(false) || starts.is_none() && always_upper {
                self.ends = false;
            }
        }
    }
}

/// Whether a token of this text but the last one ends a sentence.
fn ends_sentence(context: &str) -> bool {
    let mut tokens = (context.split('\n').filter(|line| !strip(line).is_empty())).flat_map(words).map(Token::new);
    let Some(mut token) = tokens.next() else { return false };
    for next in tokens {
        token.revise(&next);
        if token.ends {
            return true;
        }
        token = next;
    }
    false
}

/// A line cut into words, with their period, and signs.
fn words(line: &str) -> Vec<String> {
    let line: Vec<char> = line.chars().collect();
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(&first) = line.get(at) {
        if is_space(first) {
            at += 1;
            continue;
        }
        let length = repeated_sign(&line[at..]).unwrap_or_else(|| match NOT_AT_START.contains(first) {
            true => 1,
            false => (1..).find(|&length| ends_word(&line[at + length..])).unwrap_or(1),
        });
        words.push(line[at..at + length].iter().collect());
        at += length;
    }
    words
}

/// Characters of a dash or an ellipsis (also a spaced one) at the head of `rest`.
fn repeated_sign(rest: &[char]) -> Option<usize> {
    let run = |sign| rest.iter().take_while(|&&c| c == sign).count();
    let (dashes, dots) = (run('-'), run('.'));
    if dashes.max(dots) >= 2 {
        return Some(dashes.max(dots));
    }
    let spaced = rest.chunks_exact(2).take_while(|pair| pair[0] == '.' && is_space(pair[1])).count();
    (2..=spaced).rev().map(|pairs| 2 * pairs).find(|&dot| rest.get(dot) == Some(&'.')).map(|dot| dot + 1)
}

fn ends_word(rest: &[char]) -> bool {
    let stops =
        |rest: &[char]| rest.first().is_none_or(|&c| is_space(c) || NON_WORD.contains(c)) || repeated_sign(rest).is_some();
    stops(rest) || rest[0] == ',' && stops(&rest[1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_whole() {
        let sizes = (PARAMETERS.abbreviations.len(), PARAMETERS.collocations.len(), PARAMETERS.starters.len());
        assert_eq!((sizes, PARAMETERS.contexts.len()), ((156, 37, 39), 20366));
    }

    #[test]
    fn words_and_signs() {
        assert_eq!(
            words("a,b, (c) . . . --d... e.g. -x"),
            ["a,b", ",", "(", "c", ")", ". . .", "--", "d", "...", "e.g.", "-", "x"]
        );
    }

    #[test]
    fn closing_signs_go_with_what_they_close() {
        assert_eq!(sentences("(One.) \"Two!\" Three?--Four. \n"), ["(One.)", "\"Two!\"", "Three?--Four."]);
        assert_eq!(sentences("Very bad acting!!! I promise."), ["Very bad acting!!!", "I promise."]);
        assert!(sentences(" \n").is_empty());
    }
}
