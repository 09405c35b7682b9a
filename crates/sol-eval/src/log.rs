//! Answers on disk: a file of recorded ones, and the log from which a run that was killed goes on.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::document::{Answer, Document};
use crate::hash::sha256;
use crate::prompt::request_line;
use crate::{Error, Result};

/// Recorded answers by task and document: lines with `task`, `doc_id` and `responses` (`[[log-likelihood, greedy], …]`) or `raw`
/// (a text, or several), plain or `.gz`; or logs of samples, `samples_<task>.jsonl`.
pub struct Recorded {
    answers: HashMap<(String, u64), Line>,
}

/// An answer, the hash of the prompt it was given to where the file has it, and the file.
type Line = (Answer, Option<String>, PathBuf);

impl Recorded {
    /// Reads files.
    pub fn open(files: &[PathBuf]) -> Result<Self> {
        let mut answers = HashMap::new();
        files.iter().try_for_each(|file| read(file, &mut answers))?;
        Ok(Self { answers })
    }

    /// Whether there are answers to any document of a task.
    pub fn has(&self, task: &str) -> bool {
        self.answers.keys().any(|(known, _)| known == task)
    }

    /// The answer to a document; `None` where there is none. One that was given to another prompt is an error.
    pub fn answer(&self, document: &Document) -> Result<Option<Answer>> {
        let Some((answer, hash, file)) = self.answers.get(&(document.task.to_string(), document.doc_id as u64)) else {
            return Ok(None);
        };
        if hash.as_ref().is_some_and(|hash| *hash != sha256(document.context.as_bytes())) {
            let problem = format!(
                "the answer to task '{}', document {}, was given to another prompt; run with the settings it was recorded with",
                document.task, document.doc_id
            );
            return Err(Error::Data { file: file.clone(), line: None, problem });
        }
        Ok(Some(answer.clone()))
    }
}

fn read(file: &Path, answers: &mut HashMap<(String, u64), Line>) -> Result<()> {
    let io = |source| Error::Io { path: file.into(), source };
    let bytes = File::open(file).map_err(io)?;
    let gz = file.extension().is_some_and(|e| e == "gz");
    let reader: Box<dyn Read> = if gz { Box::new(flate2::read::MultiGzDecoder::new(bytes)) } else { Box::new(bytes) };
    let of_name = task_of(file);
    for (i, line) in BufReader::new(reader).lines().enumerate() {
        let broken = |problem: String| Error::Data { file: file.into(), line: Some(i + 1), problem };
        let line = line.map_err(|e| broken(format!("can not be read: {e}")))?;
        if line.trim().is_empty() {
            continue;
        }
        let line: Value = serde_json::from_str(&line).map_err(|e| broken(format!("is no JSON: {e}")))?;
        let task = line["task"].as_str().or(of_name.as_deref());
        let (Some(task), Some(doc_id)) = (task, line["doc_id"].as_u64()) else {
            return Err(broken("has no `task` or no `doc_id`".into()));
        };
        let answer = answer(&line).ok_or_else(|| broken("has neither `responses` nor `raw` nor `resps`".into()))?;
        let hash = line["prompt_hash"].as_str().map(str::to_owned);
        answers.insert((task.to_owned(), doc_id), (answer, hash, file.to_owned()));
    }
    Ok(())
}

/// The harness's lines do not name their task; its files do: `samples_<task>_<time>.jsonl`.
fn task_of(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?.strip_prefix("samples_")?;
    let name = name.strip_suffix(".gz").unwrap_or(name).strip_suffix(".jsonl")?;
    let time = |text: &str| text.len() > 10 && text.starts_with("20") && text.as_bytes()[10] == b'T';
    Some(name.rsplit_once('_').filter(|(_, last)| time(last)).map_or(name, |(task, _)| task).to_owned())
}

/// An answer in one of the forms that lines have: `raw` (a text or a list of texts), `responses` (`[[log-likelihood, greedy], …]`, a number for
/// a whole text), or `resps` as in the harness's logs of samples, whose every value may be a text in Python's spelling.
fn answer(line: &Value) -> Option<Answer> {
    match &line["raw"] {
        Value::String(text) => return Some(Answer::Texts(vec![text.clone()])),
        Value::Array(texts) => {
            return texts.iter().map(|t| Some(t.as_str()?.to_owned())).collect::<Option<_>>().map(Answer::Texts);
        }
        _ => {}
    }
    match &line["responses"] {
        Value::Array(pairs) => return pairs.iter().map(pair).collect::<Option<_>>().map(Answer::Choices),
        Value::Null => {}
        sum => return number(sum).map(Answer::Rolling),
    }
    // A list of each request's repeated answers.
    let requests = line["resps"].as_array()?;
    match &requests.first()?[0] {
        Value::Array(_) => requests.iter().map(|request| pair(&request[0])).collect::<Option<_>>().map(Answer::Choices),
        Value::Number(sum) => sum.as_f64().map(Answer::Rolling),
        Value::String(_) if line["metrics"].is_null() && line.get("word_perplexity").is_some() => {
            number(&requests[0][0]).map(Answer::Rolling)
        }
        Value::String(_) => {
            let texts = requests.iter().flat_map(|r| r.as_array().into_iter().flatten());
            texts.map(|text| Some(text.as_str()?.to_owned())).collect::<Option<_>>().map(Answer::Texts)
        }
        _ => None,
    }
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

/// A number, also one that JSON has no number for.
pub(crate) fn exact(number: f64) -> Value {
    if number.is_finite() { number.into() } else { number.to_string().into() }
}

fn pair(pair: &Value) -> Option<(f64, bool)> {
    // What others write for NaN.
    let score = if pair[0].is_null() { f64::NAN } else { number(&pair[0])? };
    let greedy = pair[1].as_bool().or_else(|| match pair[1].as_str()? {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    })?;
    Some((score, greedy))
}

/// A log of answers, one line each, written as they come. Answers are found by the whole request, so that another prompt or
/// setting never gets a stale one.
pub struct AnswerLog {
    path: PathBuf,
    file: File,
    known: HashMap<String, Answer>,
}

impl AnswerLog {
    /// Opens or begins the log of a model, told from others by `fingerprint`; a last line that was cut is dropped.
    pub fn open(path: &Path, fingerprint: &str) -> Result<Self> {
        let io = |source| Error::Io { path: path.into(), source };
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(io)?;
        if file.try_lock().is_err() {
            return Err(Error::Data { file: path.into(), line: None, problem: "another run is writing this log".into() });
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        file.set_len(whole as u64).map_err(io)?;
        let text = std::str::from_utf8(&bytes[..whole]).map_err(|_| Error::Data {
            file: path.into(),
            line: None,
            problem: "is no text; give another --output".into(),
        })?;
        let mut known = HashMap::new();
        for (i, line) in text.lines().enumerate() {
            let broken = |problem: String| Error::Data { file: path.into(), line: Some(i + 1), problem };
            let line: Value = serde_json::from_str(line).map_err(|e| broken(format!("is no JSON: {e}")))?;
            if i == 0 {
                if line["answers_of"] != fingerprint {
                    let problem = format!("these are answers of another model, or no answers: {}", line["answers_of"]);
                    return Err(broken(problem + "; give another --output"));
                }
                continue;
            }
            let (Some(key), Some(answer)) = (line["request"].as_str(), answer(&line)) else {
                return Err(broken("is no answer".into()));
            };
            known.insert(key.to_owned(), answer);
        }
        let mut log = Self { path: path.into(), file, known };
        if whole == 0 {
            log.write(&json!({ "answers_of": fingerprint }))?;
        }
        Ok(log)
    }

    /// The answer to a document, if an earlier run had it.
    pub fn answer(&self, document: &Document) -> Option<Answer> {
        self.known.get(&key(document)).cloned()
    }

    /// Keeps an answer; not one that is no number, so that it is asked for again.
    pub fn push(&mut self, document: &Document, answer: &Answer) -> Result<()> {
        let nan = match answer {
            Answer::Choices(scores) => scores.iter().any(|(score, _)| score.is_nan()),
            Answer::Rolling(sum) => sum.is_nan(),
            Answer::Texts(_) => false,
        };
        if nan {
            return Ok(());
        }
        let mut line = Map::new();
        line.insert("request".into(), key(document).into());
        line.insert("task".into(), (*document.task).into());
        line.insert("doc_id".into(), document.doc_id.into());
        match answer {
            Answer::Choices(scores) => {
                line.insert("responses".into(), scores.iter().map(|(s, greedy)| json!([exact(*s), greedy])).collect())
            }
            Answer::Rolling(sum) => line.insert("responses".into(), exact(*sum)),
            Answer::Texts(texts) => match &texts[..] {
                [text] => line.insert("raw".into(), text.as_str().into()),
                texts => line.insert("raw".into(), texts.into()),
            },
        };
        self.write(&Value::Object(line))
    }

    fn write(&mut self, line: &Value) -> Result<()> {
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(|source| Error::Io { path: self.path.clone(), source })
    }
}

fn key(document: &Document) -> String {
    sha256(request_line(document).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Ask;
    use std::sync::Arc;

    fn document(context: &str) -> Document {
        let ask = Ask::Choices(vec![" A".into(), " B".into()]);
        Document {
            task: "t".into(),
            doc_id: 3,
            row: Arc::new(Value::Null),
            context: context.into(),
            conversation: false,
            ask,
            target: 0.into(),
        }
    }

    #[test]
    fn a_log_survives_being_cut_and_knows_its_model_and_its_prompts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers.jsonl");
        let answer = Answer::Choices(vec![(-0.1 - 0.2, true), (-4e-7, false)]);
        let mut log = AnswerLog::open(&path, "m").unwrap();
        log.push(&document("q"), &answer).unwrap();
        log.push(&document("r"), &answer).unwrap();
        assert!(AnswerLog::open(&path, "m").is_err_and(|e| e.to_string().contains("another run")));
        drop(log);
        let cut = std::fs::metadata(&path).unwrap().len() - 5;
        let all = std::fs::read(&path).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(cut).unwrap();
        let log = AnswerLog::open(&path, "m").unwrap();
        assert_eq!((log.answer(&document("q")), log.answer(&document("r"))), (Some(answer), None));
        drop(log);
        // In the middle of a character, as a full disk does it.
        std::fs::write(&path, [&all[..], &"{\"raw\":\"한".as_bytes()[..9]].concat()).unwrap();
        let mut log = AnswerLog::open(&path, "m").unwrap();
        let certain = Answer::Choices(vec![(0.0, true), (f64::NEG_INFINITY, false)]);
        log.push(&document("s"), &certain).unwrap();
        drop(log);
        assert_eq!(AnswerLog::open(&path, "m").unwrap().answer(&document("s")), Some(certain));
        assert!(AnswerLog::open(&path, "n").is_err_and(|e| e.to_string().contains("another model")));
        std::fs::write(&path, "{\"answers_of\":\"m\"}\n{\n").unwrap();
        assert!(AnswerLog::open(&path, "m").is_err_and(|e| e.to_string().contains("line 2")));
    }
}
