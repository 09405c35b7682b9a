//! IFEval: whether an answer follows instructions that a program can check.
//!
//! A row names its instructions and gives each its arguments. An answer is judged twice: strictly, as it is; loosely, as the
//! best of eight readings that forgive a first line, a last line and emphasis. The rules are those of lm-evaluation-harness
//! 928e8bb, with all that they owe to Python: [`patterns`] (its regular expressions), [`punkt`] and [`words`] (NLTK's
//! sentences and words), [`langdetect`] (languages).

mod format;
mod keywords;
mod langdetect;
mod length;
mod patterns;
mod punkt;
#[cfg(test)]
mod vectors;
mod whole;
mod words;

use std::io::Read;

use serde_json::{Map, Value};

use crate::python::Random;
use crate::python::text::strip;

/// Which instructions an answer follows, in the row's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Flags {
    /// As the answer stands.
    pub(super) strict: Vec<bool>,
    /// In its best reading.
    pub(super) loose: Vec<bool>,
}

/// Judges an answer.
///
/// `row` has the columns `instruction_id_list` and `kwargs` of the data set. `random` is the run's own generator: a letter to be
/// counted that is none of a to z is drawn anew, once for the strict and once for the loose judgement, as the harness does.
///
/// # Errors
/// A sentence, where the row has no such columns, names an unknown instruction, or lacks or misuses an argument. The harness
/// draws missing arguments at random; that would measure nothing.
pub(super) fn score(row: &Value, response: &str, random: &mut Random) -> Result<Flags, String> {
    let list = |name: &str| row.get(name).and_then(Value::as_array).ok_or_else(|| format!("the column '{name}' is no list"));
    let (ids, kwargs) = (list("instruction_id_list")?, list("kwargs")?);
    let nothing = Map::new();
    let mut instructions = Vec::with_capacity(ids.len());
    for (index, id) in ids.iter().enumerate() {
        let id = id.as_str().ok_or_else(|| format!("instruction {id} is no name"))?;
        let values = match kwargs.get(index) {
            Some(Value::Object(values)) => values,
            Some(Value::Null) => &nothing,
            _ => return Err(format!("the column 'kwargs' has no object for instruction '{id}'")),
        };
        instructions.push(Arguments { id, values });
    }
    Ok(Flags {
        strict: judge(&instructions, &[response.to_owned()], random)?,
        loose: judge(&instructions, &readings(response), random)?,
    })
}

fn judge(instructions: &[Arguments], readings: &[String], random: &mut Random) -> Result<Vec<bool>, String> {
    let judge = |arguments: &Arguments| {
        let follows = check(arguments, random)?;
        Ok(readings.iter().any(|text| !strip(text).is_empty() && follows(text)))
    };
    instructions.iter().map(judge).collect()
}

/// The answer; without its first line, its last, both; and each of these without asterisks. Equal ones are given once.
fn readings(response: &str) -> Vec<String> {
    let lines: Vec<&str> = response.split('\n').collect();
    let part = |lines: Option<&[&str]>| strip(&lines.unwrap_or_default().join("\n")).to_owned();
    let count = lines.len();
    let mut readings = vec![
        response.to_owned(),
        part(lines.get(1..)),
        part(lines.get(..count - 1)),
        part(count.checked_sub(1).and_then(|last| lines.get(1..last))),
    ];
    for index in 0..readings.len() {
        readings.push(readings[index].replace('*', ""));
    }
    let mut different: Vec<String> = Vec::with_capacity(readings.len());
    for reading in readings {
        if !different.contains(&reading) {
            different.push(reading);
        }
    }
    different
}

/// Tells whether a text follows an instruction.
type Check = Box<dyn Fn(&str) -> bool>;

fn check(arguments: &Arguments, random: &mut Random) -> Result<Check, String> {
    match arguments.id {
        "keywords:existence" => keywords::existence(arguments),
        "keywords:frequency" => keywords::frequency(arguments),
        "keywords:forbidden_words" => keywords::forbidden_words(arguments),
        "keywords:letter_frequency" => keywords::letter_frequency(arguments, random),
        "language:response_language" => whole::response_language(arguments),
        "length_constraints:number_sentences" => length::number_sentences(arguments),
        "length_constraints:number_paragraphs" => length::number_paragraphs(arguments),
        "length_constraints:number_words" => length::number_words(arguments),
        "length_constraints:nth_paragraph_first_word" => length::nth_paragraph_first_word(arguments),
        "detectable_content:number_placeholders" => format::number_placeholders(arguments),
        "detectable_content:postscript" => format::postscript(arguments),
        "detectable_format:number_bullet_lists" => format::number_bullet_lists(arguments),
        "detectable_format:constrained_response" => Ok(Box::new(format::constrained_response)),
        "detectable_format:number_highlighted_sections" => format::number_highlighted_sections(arguments),
        "detectable_format:multiple_sections" => format::multiple_sections(arguments),
        "detectable_format:json_format" => Ok(Box::new(format::json_format)),
        "detectable_format:title" => Ok(Box::new(format::title)),
        "combination:two_responses" => Ok(Box::new(whole::two_responses)),
        "combination:repeat_prompt" => whole::repeat_prompt(arguments),
        "startend:end_checker" => whole::end_checker(arguments),
        "startend:quotation" => Ok(Box::new(whole::quotation)),
        "change_case:capital_word_frequency" => keywords::capital_word_frequency(arguments),
        "change_case:english_capital" => Ok(Box::new(whole::english_capital)),
        "change_case:english_lowercase" => Ok(Box::new(whole::english_lowercase)),
        "punctuation:no_comma" => Ok(Box::new(|text| !text.contains(','))),
        id => Err(format!("there is no instruction '{id}'")),
    }
}

/// An instruction and its arguments.
struct Arguments<'a> {
    id: &'a str,
    values: &'a Map<String, Value>,
}

impl Arguments<'_> {
    fn wrong(&self, key: &str, what: &str) -> String {
        format!("instruction '{}': the argument '{key}' {what}", self.id)
    }

    fn get(&self, key: &str) -> Result<&Value, String> {
        self.values.get(key).filter(|value| !value.is_null()).ok_or_else(|| self.wrong(key, "is missing"))
    }

    fn text(&self, key: &str) -> Result<&str, String> {
        let text = self.get(key)?.as_str().filter(|text| !text.is_empty());
        text.ok_or_else(|| self.wrong(key, "is no text or an empty one"))
    }

    fn texts(&self, key: &str) -> Result<Vec<&str>, String> {
        let texts = self.get(key)?.as_array().filter(|list| !list.is_empty());
        let texts = texts.and_then(|list| list.iter().map(Value::as_str).collect());
        texts.ok_or_else(|| self.wrong(key, "is no list of texts or an empty one"))
    }

    /// A whole number from 1 on; it may be written as `3.0`.
    fn number(&self, key: &str) -> Result<usize, String> {
        let number = self.get(key)?.as_f64().filter(|n| (1.0..1e15).contains(n) && n.fract() == 0.0);
        number.map(|n| n as usize).ok_or_else(|| self.wrong(key, "is no whole number from 1 on"))
    }

    /// Whether a count is fewer than, or at least, the number named `number`, as the argument named `relation` says.
    fn bound(&self, relation: &str, number: &str) -> Result<impl Fn(usize) -> bool + use<>, String> {
        let number = self.number(number)?;
        let fewer = match self.text(relation)? {
            "less than" => true,
            "at least" => false,
            _ => return Err(self.wrong(relation, "is neither 'less than' nor 'at least'")),
        };
        Ok(move |count| (count < number) == fewer)
    }
}

/// A table that this crate carries, inflated.
fn inflate(packed: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    flate2::read::ZlibDecoder::new(packed).read_to_end(&mut data).expect("the embedded tables are zlib streams");
    data
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judged(id: &str, kwargs: Value, response: &str) -> Result<Flags, String> {
        score(&json!({"instruction_id_list": [id], "kwargs": [kwargs]}), response, &mut Random::new(0))
    }

    #[test]
    fn readings_forgive_lines_and_emphasis() {
        assert_eq!(readings("a\n*b*\nc "), ["a\n*b*\nc ", "*b*\nc", "a\n*b*", "*b*", "a\nb\nc ", "b\nc", "a\nb", "b"]);
        assert_eq!(readings(""), [""]);
        assert_eq!(readings("a\nb"), ["a\nb", "b", "a", ""]);
    }

    #[test]
    fn empty_answers_follow_nothing() {
        let flags = judged("punctuation:no_comma", json!({}), " \n\u{1f}").unwrap();
        assert_eq!(flags, Flags { strict: vec![false], loose: vec![false] });
        assert!(judged("punctuation:no_comma", Value::Null, "a").unwrap().strict[0]);
    }

    #[test]
    fn broken_rows_are_named() {
        let mut random = Random::new(0);
        for (row, part) in [
            (json!({}), "'instruction_id_list' is no list"),
            (json!({"instruction_id_list": [1], "kwargs": [{}]}), "1 is no name"),
            (json!({"instruction_id_list": ["a:b"], "kwargs": []}), "no object"),
            (json!({"instruction_id_list": ["a:b"], "kwargs": [{}]}), "no instruction 'a:b'"),
        ] {
            assert!(score(&row, "x", &mut random).unwrap_err().contains(part), "{row}");
        }
        for (id, kwargs, part) in [
            ("keywords:existence", json!({"keywords": ["("]}), "unclosed group"),
            ("keywords:existence", json!({"keywords": [null]}), "'keywords' is no list"),
            ("keywords:frequency", json!({"keyword": "a", "relation": "at least", "frequency": null}), "'frequency' is missing"),
            ("keywords:frequency", json!({"keyword": "a", "relation": "more", "frequency": 1}), "neither"),
            ("length_constraints:number_words", json!({"relation": "at least", "num_words": -1}), "whole number"),
            ("keywords:letter_frequency", json!({"let_relation": "at least", "let_frequency": 1}), "'letter' is missing"),
        ] {
            let error = judged(id, kwargs, "x").unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
