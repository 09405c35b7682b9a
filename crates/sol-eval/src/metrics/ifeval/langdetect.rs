//! The language of a text, as langdetect 1.0.9 guesses it when its seed is 0.
//!
//! Naive Bayes over n-grams of one to three characters: seven times, n-grams are drawn at random until one language is all but
//! certain; the mean of the seven is the answer. The draws come from a generator of its own, seeded anew for each text, so the
//! same text has the same answer.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::inflate;
use crate::python::Random;

const TRIALS: usize = 7;
/// Characters that are looked at.
const TEXT_LIMIT: usize = 10_000;
/// Draws of one trial.
const DRAW_LIMIT: usize = 1000;
const CERTAIN: f64 = 0.99999;
/// What a language must exceed to be an answer.
const LIKELY: f64 = 0.1;

/// Length in characters of the longest n-gram.
const LONGEST: usize = 3;

/// Up to three characters; the unused ones are `\0`, which sorts as Python sorts texts.
type Gram = [char; LONGEST];

struct Profiles {
    languages: Vec<String>,
    /// Sorted.
    grams: Vec<Gram>,
    /// Where the languages of each n-gram end in `frequencies`.
    ends: Vec<usize>,
    /// Index of a language, and which share of its n-grams of that length this one is.
    frequencies: Vec<(u8, f64)>,
    /// Ideographs, sorted, and the one that stands for each.
    ideographs: Vec<(char, char)>,
}

static PROFILES: LazyLock<Profiles> = LazyLock::new(|| {
    Profiles::parse(&inflate(include_bytes!("../../../data/langdetect.z"))).expect("the embedded profiles are whole")
});

impl Profiles {
    /// Reads the layout that `xtools/eval_ifeval_data.py` describes.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut section = || {
            let mut lines = Vec::new();
            loop {
                let end = rest.iter().position(|&byte| byte == b'\n')?;
                let line = std::str::from_utf8(&rest[..end]).ok()?;
                rest = &rest[end + 1..];
                if line.is_empty() {
                    return Some(lines);
                }
                lines.push(line);
            }
        };
        let (header, classes, texts) = (section()?, section()?, section()?);

        let mut languages = Vec::new();
        let mut totals = Vec::new();
        for line in header {
            let mut words = line.split(' ');
            languages.push(words.next()?.to_owned());
            totals.push(words.map(str::parse).collect::<Result<Vec<f64>, _>>().ok().filter(|n| n.len() == LONGEST)?);
        }
        let mut ideographs = Vec::new();
        for class in classes {
            let head = class.chars().next()?;
            ideographs.extend(class.chars().map(|c| (c, head)));
        }
        ideographs.sort_unstable();

        let grams: Vec<Gram> = texts.iter().map(|text| gram(text.chars())).collect();
        let (sizes, rest) = rest.split_at_checked(grams.len())?;
        let (which, mut counts) = rest.split_at_checked(sizes.iter().map(|&n| usize::from(n)).sum())?;
        let mut which = which.iter();
        let mut frequencies = Vec::with_capacity(which.len());
        let mut ends = Vec::with_capacity(grams.len());
        for (gram, &size) in grams.iter().zip(sizes) {
            let length = gram.iter().filter(|&&c| c != '\0').count();
            let mut language = 0;
            for _ in 0..size {
                language += *which.next()?;
                let count = leb128(&mut counts)?;
                frequencies.push((language, count as f64 / totals.get(usize::from(language))?[length - 1]));
            }
            ends.push(frequencies.len());
        }
        counts.is_empty().then_some(Self { languages, grams, ends, frequencies, ideographs })
    }

    /// Where the languages of an n-gram are, if any has it.
    fn find(&self, gram: &Gram) -> Option<Range<usize>> {
        let at = self.grams.binary_search(gram).ok()?;
        Some(at.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[at])
    }
}

fn leb128(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let byte = *bytes.split_off_first()?;
        number |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Some(number);
        }
    }
    None
}

fn gram(chars: impl Iterator<Item = char>) -> Gram {
    let mut gram = ['\0'; LONGEST];
    gram.iter_mut().zip(chars).for_each(|(slot, c)| *slot = c);
    gram
}

/// The code of the likeliest language, `unknown` where none is likely; `None` where the text has nothing to go by, which
/// langdetect raises an exception for.
pub(super) fn detect(text: &str) -> Option<&'static str> {
    let mut best = ("unknown", LIKELY);
    for (language, chance) in chances(text)? {
        if chance > best.1 {
            best = (language, chance);
        }
    }
    Some(best.0)
}

/// How likely each language is, in alphabetical order.
pub(super) fn chances(text: &str) -> Option<impl Iterator<Item = (&'static str, f64)>> {
    let profiles = &*PROFILES;
    let grams = extract(&clean(text));
    if grams.is_empty() {
        return None;
    }
    let mut random = Random::new(0);
    let mut mean = vec![0.0; profiles.languages.len()];
    for _ in 0..TRIALS {
        let alpha = 0.5 + random.gauss(0.0, 1.0) * 0.05;
        for (mean, chance) in mean.iter_mut().zip(trial(profiles, &grams, alpha, &mut random)) {
            *mean += chance / TRIALS as f64;
        }
    }
    Some(profiles.languages.iter().map(String::as_str).zip(mean))
}

fn trial(profiles: &Profiles, grams: &[Range<usize>], alpha: f64, random: &mut Random) -> Vec<f64> {
    let unseen = alpha / 10_000.0;
    let mut chances = vec![1.0 / profiles.languages.len() as f64; profiles.languages.len()];
    for draw in 0.. {
        let mut factors = vec![unseen; chances.len()];
        for &(language, frequency) in &profiles.frequencies[grams[random.choice(grams.len())].clone()] {
            factors[usize::from(language)] = unseen + frequency;
        }
        chances.iter_mut().zip(factors).for_each(|(chance, factor)| *chance *= factor);
        if draw % 5 == 0 {
            let sum = chances.iter().fold(0.0, |sum, chance| sum + chance);
            chances.iter_mut().for_each(|chance| *chance /= sum);
            if draw >= DRAW_LIMIT || chances.iter().any(|&chance| chance > CERTAIN) {
                break;
            }
        }
    }
    chances
}

/// The text without addresses, marks joined to their letters, runs of blanks made one; without Latin letters where others are
/// far more.
fn clean(text: &str) -> Vec<char> {
    static URL: LazyLock<Regex> = LazyLock::new(|| own(r"https?://[-_.?&~;+=/#0-9A-Za-z]{1,2076}"));
    static MAIL: LazyLock<Regex> = LazyLock::new(|| own(r"[-_.0-9A-Za-z]{1,64}@[-_0-9A-Za-z]{1,255}[-_.0-9A-Za-z]{1,255}"));
    let own_addresses = URL.replace_all(text, " ");
    let text = MAIL.replace_all(&own_addresses, " ");
    let mut chars = join_marks(&text);
    chars.truncate(TEXT_LIMIT);
    chars.dedup_by(|c, before| *c == ' ' && *before == ' ');

    let latin = |c: char| ('A'..='z').contains(&c);
    let latins = chars.iter().filter(|&&c| latin(c)).count();
    let others = chars.iter().filter(|&&c| c >= '\u{300}').count();
    if latins * 2 < others {
        chars.retain(|&c| !latin(c));
    }
    chars
}

fn own(pattern: &str) -> Regex {
    super::patterns::own(pattern)
}

/// A letter of Vietnamese and a mark behind it become one character.
fn join_marks(text: &str) -> Vec<char> {
    const LETTERS: &str = "AEIOUYaeiouyÂÊÔâêôĂăƠơƯư";
    const JOINED: [(char, &str); 5] = [
        ('\u{300}', "ÀÈÌÒÙỲàèìòùỳẦỀỒầềồẰằỜờỪừ"),
        ('\u{301}', "ÁÉÍÓÚÝáéíóúýẤẾỐấếốẮắỚớỨứ"),
        ('\u{303}', "ÃẼĨÕŨỸãẽĩõũỹẪỄỖẫễỗẴẵỠỡỮữ"),
        ('\u{309}', "ẢẺỈỎỦỶảẻỉỏủỷẨỂỔẩểổẲẳỞởỬử"),
        ('\u{323}', "ẠẸỊỌỤỴạẹịọụỵẬỆỘậệộẶặỢợỰự"),
    ];
    let mut joined = Vec::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(letter) = chars.next() {
        let marked = chars.peek().and_then(|mark| {
            let (_, with_mark) = JOINED.iter().find(|(known, _)| known == mark)?;
            with_mark.chars().nth(LETTERS.chars().position(|known| known == letter)?)
        });
        if marked.is_some() {
            chars.next();
        }
        joined.push(marked.unwrap_or(letter));
    }
    joined
}

/// The known n-grams that end at each character. They do not reach beyond the blank before their word, and those that end in the
/// second or a later capital in a row are left out.
fn extract(chars: &[char]) -> Vec<Range<usize>> {
    let mut known = Vec::new();
    let mut window = vec![' '];
    let mut capitals = false;
    for c in chars.iter().map(|&c| normalize(c)) {
        let last = window[window.len() - 1];
        if last == ' ' {
            window = vec![' '];
            capitals = false;
            if c == ' ' {
                continue;
            }
        } else if window.len() == LONGEST {
            window.remove(0);
        }
        window.push(c);
        capitals = c.is_uppercase() && (capitals || last.is_uppercase());
        if capitals {
            continue;
        }
        for start in (0..window.len()).rev().filter(|&start| window[start..] != [' ']) {
            known.extend(PROFILES.find(&gram(window[start..].iter().copied())));
        }
    }
    known
}

/// The character that stands for this one; a blank for what is no letter.
fn normalize(c: char) -> char {
    match c {
        'A'..='Z' | 'a'..='z' => c,
        '\0'..='\u{7f}' | '\u{a0}' | '«' | '°' | '»' | '\u{2000}'..='\u{206f}' => ' ',
        'ș' => 'ş',
        'ț' => 'ţ',
        'ی' => 'ي',
        '\u{1ea0}'..='\u{1eff}' => 'ể',
        '\u{3040}'..='\u{309f}' => 'あ',
        '\u{30a0}'..='\u{30ff}' => 'ア',
        '\u{3100}'..='\u{312f}' | '\u{31a0}'..='\u{31bf}' => 'ㄅ',
        '\u{4e00}'..='\u{9fff}' => match PROFILES.ideographs.binary_search_by_key(&c, |&(member, _)| member) {
            Ok(at) => PROFILES.ideographs[at].1,
            Err(_) => c,
        },
        '\u{ac00}'..='\u{d7af}' => '가',
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_whole() {
        assert_eq!((PROFILES.languages.len(), PROFILES.grams.len(), PROFILES.frequencies.len()), (55, 61779, 156772));
        assert!(PROFILES.grams.is_sorted());
    }

    #[test]
    fn nothing_to_go_by() {
        assert_eq!(detect("123 !? https://example.org/abc a@b.cd"), None);
        assert_eq!(detect(""), None);
    }

    #[test]
    fn languages() {
        let texts = [
            ("en", "This is a plain sentence about the weather in the mountains."),
            ("de", "Dies ist ein einfacher Satz über das Wetter in den Bergen."),
            ("ja", "これは山の天気についての文です。"),
            ("vi", "Đa\u{302}y la\u{300} một câu đơn giản về thời tiết."),
            ("ko", "산의 날씨에 대한 간단한 문장입니다."),
        ];
        for (language, text) in texts {
            assert_eq!(detect(text), Some(language), "{text}");
        }
    }
}
