//! Words, as NLTK 3.9.1's `word_tokenize` cuts them: sentences first, then rules in the tradition of the Penn Treebank, which
//! put spaces around whatever becomes a word of its own.

use std::sync::LazyLock;

use regex::Regex;

use super::patterns::{find_from, is_boundary, is_word, own};
use super::punkt::sentences;

/// A rule: what is found, and what takes its place.
type Rule = (Regex, &'static str);

fn rules<const N: usize>(rules: [(&str, &'static str); N]) -> Vec<Rule> {
    rules.map(|(pattern, replacement)| (own(pattern), replacement)).into()
}

static OPENING_QUOTES: LazyLock<Vec<Rule>> =
    LazyLock::new(|| rules([("([«“‘„]|`+)", " $1 "), ("^\"", "``"), ("``", " `` "), (r#"([ (\[{<])("|'{2})"#, "$1 `` ")]));

static PUNCTUATION: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    rules([
        // The period that ends the sentence; the same again, for what the first rule does not let follow.
        (r#"([^.])(\.)([\])}>"'»”’ ]*)\s*\z"#, "$1 $2 $3 "),
        (r"([:,])(\D)", " $1 $2"),
        (r"([:,])\z", " $1 "),
        (r"\.{2,}", " $0 "),
        (r"[;@#$%&]", " $0 "),
        (r#"([^.])(\.)([\])}>"']*)\s*\z"#, "$1 $2$3 "),
        (r"[?!]", " $0 "),
        (r"([^'])' ", "$1 ' "),
        (r"\*", " $0 "),
        (r"[\]\[(){}<>]", " $0 "),
        ("--", " -- "),
    ])
});

static CLOSING_QUOTES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    rules([
        ("[»”’]", " $0 "),
        ("''", " '' "),
        ("\"", " '' "),
        (r"\s+", " "),
        ("([^' ])('[sS]|'[mM]|'[dD]|') ", "$1 $2 "),
        ("([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", "$1 $2 "),
    ])
});

/// Words written as one that are two: what is found, whether a word has to begin and to end there.
static JOINED: LazyLock<Vec<(Regex, bool, bool)>> = LazyLock::new(|| {
    let joined = |pattern: &str, begins, ends| (own(&format!("(?i){pattern}")), begins, ends);
    vec![
        joined("(can)(not)", true, true),
        joined("(d)('ye)", true, true),
        joined("(gim)(me)", true, true),
        joined("(gon)(na)", true, true),
        joined("(got)(ta)", true, true),
        joined("(lem)(me)", true, true),
        joined("(more)('n)", true, true),
        joined(r"(wan)(na)(?<space>\s)", true, false),
        joined(" ('t)(is)", false, true),
        joined(" ('t)(was)", false, true),
    ]
});

/// The words and signs of a text.
pub(super) fn words(text: &str) -> Vec<String> {
    sentences(text).into_iter().flat_map(sentence_words).collect()
}

fn sentence_words(sentence: &str) -> Vec<String> {
    let mut text = sentence.to_owned();
    apply(&OPENING_QUOTES, &mut text);
    text = split_opening_apostrophes(&text);
    apply(&PUNCTUATION, &mut text);
    text = format!(" {text} ");
    apply(&CLOSING_QUOTES, &mut text);
    for (regex, begins, ends) in JOINED.iter() {
        text = split_joined(&text, regex, *begins, *ends);
    }
    text.split(crate::python::text::is_space).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn apply(rules: &[Rule], text: &mut String) {
    for (regex, replacement) in rules {
        if let std::borrow::Cow::Owned(changed) = regex.replace_all(text, *replacement) {
            *text = changed;
        }
    }
}

/// `'a` becomes `' a` where a word of one letter follows, but for those that may be the rest of a contraction.
fn split_opening_apostrophes(text: &str) -> String {
    let mut split = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        split.push(c);
        if c != '\'' {
            continue;
        }
        let Some(letter) = chars.next_if(|&letter| is_word(letter)) else { continue };
        let alone = !chars.peek().is_some_and(|&next| is_word(next));
        if alone && !"mtsdnMTSDNſ".contains(letter) {
            split.push(' ');
        }
        split.push(letter);
    }
    split
}

fn split_joined(text: &str, regex: &Regex, begins: bool, ends: bool) -> String {
    let mut split = String::new();
    let mut from = 0;
    let accepted =
        |found: &regex::Match| (!begins || is_boundary(text, found.start())) && (!ends || is_boundary(text, found.end()));
    while let Some(found) = find_from(regex, text, from, accepted) {
        let Some(parts) = regex.captures_at(text, found.start()) else { break };
        // The space behind the words is looked at, not taken.
        let end = parts.name("space").map_or(found.end(), |space| space.start());
        split += &text[from..found.start()];
        split.extend([" ", &parts[1], " ", &parts[2], " "]);
        from = end;
    }
    split + &text[from..]
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn contractions_and_quotes() {
        let words = words("\"I can't 'a wanna gonna Cannot,\" he'd say: 'Tis 3:15... more'n $5 ''x'' 'tis.");
        assert_eq!(
            words.join("|"),
            "``|I|ca|n't|'|a|wan|na|gon|na|Can|not|,|''|he|'d|say|:|'T|is|3:15|...|more|'n|$|5|``|x|''|'t|is|."
        );
    }
}
