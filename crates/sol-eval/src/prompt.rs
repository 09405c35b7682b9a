//! Rows to documents: templates, examples, chat messages, as the harness assembles them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Expression, UndefinedBehavior, context};
use regex::Regex;
use serde_json::{Map, Value};
use sol_hub::Progress;
use sol_text::Message;

use crate::data::{Row, Source};
use crate::document::{Ask, Document, GenKwargs};
use crate::hash::sha256;
use crate::python::{Random, literal_eval, text};
use crate::task::{EXAMPLES, Judge, Kind, ROWS, SamplerKind, Task};
use crate::{Error, Result};

/// Renders messages to a prompt that ends where the answer begins.
pub type Chat = dyn Fn(&[Message]) -> Result<String>;

/// What a run asks for.
#[derive(Clone, Copy)]
pub struct Settings<'a> {
    /// Examples; a task whose number is fixed keeps it.
    pub num_fewshot: Option<usize>,
    /// Seed of the examples' generator; the harness's is 1234.
    pub fewshot_seed: u64,
    /// Documents of each task; below 1 a share of them, rounded up.
    pub limit: Option<f64>,
    /// Put before the description.
    pub system_instruction: Option<&'a str>,
    /// The chat template, where prompts are conversations.
    pub chat: Option<&'a Chat>,
    /// Examples are turns of the conversation.
    pub fewshot_as_multiturn: bool,
    /// Whether that only writes them down, for whoever answers to make a prompt of.
    pub conversation: bool,
    /// Put into every task's settings of generation.
    pub generate: Option<&'a Map<String, Value>>,
    /// Seed of sampled answers.
    pub seed: u64,
}

impl Default for Settings<'_> {
    fn default() -> Self {
        Self {
            num_fewshot: None,
            fewshot_seed: 1234,
            limit: None,
            system_instruction: None,
            chat: None,
            fewshot_as_multiturn: false,
            conversation: false,
            generate: None,
            seed: 0,
        }
    }
}

/// A task with its rows.
pub struct Prepared {
    task: Arc<Task>,
    env: Environment<'static>,
    rows: Vec<Row>,
    examples: Vec<Row>,
    n_shot: usize,
    random: Shared,
}

/// Generator of a run, from which templates shuffle and judges draw.
pub type Shared = Arc<Mutex<Random>>;

impl Prepared {
    /// Reads a task's rows, telling `progress` of downloads, and derives their columns, which may draw from `random`: tasks are to be loaded in the
    /// order of [`crate::task::Registry::select`].
    pub fn load(
        task: &Arc<Task>,
        source: &Source,
        settings: &Settings<'_>,
        random: &Shared,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let location = task.location();
        let read = |split: &str| {
            source.rows(&location, split, progress).map_err(|error| match error {
                Error::NoData { problem, .. } => Error::NoData { task: task.name.clone(), problem },
                error => error,
            })
        };
        let n_shot = settings.num_fewshot.filter(|_| !task.fewshot.fixed).unwrap_or(task.fewshot.n);
        let env = environment(task, Arc::clone(random))?;
        let mut examples = match n_shot {
            0 => Vec::new(),
            _ if !task.samples.is_empty() => task.samples.clone(),
            _ => read(EXAMPLES)?,
        };
        only(task, &env, &mut examples)?;
        if examples.len() < n_shot {
            let problem = format!("{n_shot} examples were asked for, but there are {}", examples.len());
            return Err(Error::NoData { task: task.name.clone(), problem });
        }
        let mut rows = read(ROWS)?;
        only(task, &env, &mut rows)?;
        if rows.is_empty() {
            let problem = format!("no row has what the task wants of them: {}", task.only.as_deref().unwrap_or_default());
            return Err(Error::NoData { task: task.name.clone(), problem });
        }
        if task.kind == Kind::GenerateUntil {
            generation(task, settings)?;
        }
        {
            let derive = Derived::new(task, &env)?;
            for (doc_id, row) in rows.iter_mut().enumerate() {
                derive.apply(task, doc_id, row)?;
            }
        }
        Ok(Self { task: Arc::clone(task), env, rows, examples, n_shot, random: Arc::clone(random) })
    }

    /// The task.
    pub fn task(&self) -> &Arc<Task> {
        &self.task
    }

    /// The run's generator.
    pub fn random(&self) -> &Shared {
        &self.random
    }

    /// Rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Examples in front of each question.
    pub fn n_shot(&self) -> usize {
        self.n_shot
    }

    /// Rows that are asked.
    pub fn limited(&self, limit: Option<f64>) -> usize {
        match limit {
            None => self.len(),
            Some(share) if share < 1.0 => (self.len() as f64 * share).ceil() as usize,
            Some(n) => self.len().min(n as usize),
        }
    }

    /// Calls `each` with every document in order.
    pub fn documents(&self, settings: &Settings<'_>, each: &mut dyn FnMut(Document) -> Result<()>) -> Result<()> {
        let task = &self.task;
        let derive = Derived::new(task, &self.env)?;
        let choices = match task.kind {
            Kind::MultipleChoice => Some(expression(task, &self.env, &task.choices)?),
            Kind::GenerateUntil | Kind::LoglikelihoodRolling => None,
        };
        let question = Question { task, env: &self.env, choices };
        let mut random = Random::new(settings.fewshot_seed);
        let mut shots: BTreeMap<usize, Shot> = BTreeMap::new();
        for (doc_id, row) in self.rows.iter().enumerate().take(self.limited(settings.limit)) {
            let mut draw = || -> Vec<usize> {
                match task.fewshot.sampler {
                    _ if self.n_shot == 0 => Vec::new(),
                    sampler => {
                        let wanted = (self.n_shot + task.fewshot.surplus).min(self.examples.len());
                        let drawn = match sampler {
                            SamplerKind::FirstN => (0..wanted).collect(),
                            SamplerKind::Random => random.sample(self.examples.len(), wanted).unwrap_or_default(),
                        };
                        drawn.into_iter().filter(|i| !is_row_of(&self.examples[*i], row)).take(self.n_shot).collect()
                    }
                }
            };
            let mut drawn = draw();
            // The harness samples twice where a chat has one turn, and takes the second.
            if settings.chat.is_some() && !settings.fewshot_as_multiturn {
                drawn = draw();
            }
            for &i in &drawn {
                if let std::collections::btree_map::Entry::Vacant(place) = shots.entry(i) {
                    let mut example = self.examples[i].clone();
                    derive.apply(task, i, &mut example)?;
                    place.insert(question.shot(i, &example)?);
                }
            }
            let drawn: Vec<&Shot> = drawn.iter().map(|i| &shots[i]).collect();
            each(question.document(doc_id, row, &drawn, settings)?)?;
        }
        Ok(())
    }
}

/// A task's settings of generation, and the run's. An answer ends at an empty line where a task does not say, as in the harness.
fn generation(task: &Task, settings: &Settings<'_>) -> Result<GenKwargs> {
    let mut kwargs = GenKwargs(task.generate.clone());
    kwargs.0.extend(settings.generate.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
    let problem = |problem: String| Error::TaskFile { file: task.name.clone(), problem };
    kwargs.check().map_err(problem)?;
    let programs = task.judge == Some(Judge::Programs);
    if !programs && (kwargs.programs() || kwargs.samples() > 1) {
        return Err(problem("max_length and n_samples are for tasks whose judge is `programs`".into()));
    }
    if programs && !kwargs.programs() {
        kwargs.0.insert("max_length".into(), PROGRAM_LENGTH.into());
    }
    if !programs && !kwargs.0.contains_key("until") {
        kwargs.0.insert("until".into(), vec!["\n\n"].into());
    }
    if settings.seed != 0 && kwargs.temperature() > 0.0 && !kwargs.0.contains_key("seed") {
        kwargs.0.insert("seed".into(), settings.seed.into());
    }
    Ok(kwargs)
}

/// Tokens of a prompt and its program where a task does not say: bigcode-evaluation-harness's.
const PROGRAM_LENGTH: usize = 512;

/// Whether an example is the row that a document was made of, to which columns may have been added.
fn is_row_of(example: &Row, document: &Row) -> bool {
    example.iter().all(|(column, value)| document.get(column) == Some(value))
}

/// An example's question and answer.
struct Shot {
    question: String,
    answer: String,
}

impl Shot {
    fn text(&self) -> String {
        if self.answer.is_empty() { self.question.clone() } else { format!("{} {}\n\n", self.question, self.answer) }
    }
}

struct Question<'a> {
    task: &'a Arc<Task>,
    env: &'a Environment<'static>,
    choices: Option<Expression<'a, 'a>>,
}

impl Question<'_> {
    fn problem(&self, doc_id: usize, problem: impl ToString) -> Error {
        Error::Document { task: self.task.name.clone(), doc_id, problem: problem.to_string() }
    }

    fn render(&self, template: &str, doc_id: usize, row: &Row) -> Result<String> {
        let template = self.env.get_template(template).and_then(|t| t.render(row_context(row)));
        template.map_err(|e| self.problem(doc_id, sentence(&e)))
    }

    fn choices(&self, doc_id: usize, row: &Row) -> Result<Option<Vec<String>>> {
        let Some(choices) = &self.choices else { return Ok(None) };
        let value = choices.eval(row_context(row)).map_err(|e| self.problem(doc_id, sentence(&e)))?;
        if value.is_undefined() {
            return Err(self.problem(doc_id, format!("a column that the task reads is missing: {}", self.task.choices)));
        }
        let items = value.try_iter().map_err(|e| self.problem(doc_id, format!("the choices are no list: {e}")))?;
        let choices: Vec<String> = items.map(|item| item.to_string()).collect();
        if choices.is_empty() {
            return Err(self.problem(doc_id, "there are no choices"));
        }
        Ok(Some(choices))
    }

    /// A number where the target is one and picks a choice.
    fn target(&self, doc_id: usize, row: &Row) -> Result<Value> {
        let target = self.render("target", doc_id, row)?;
        let picks = (self.choices.is_some() || self.task.judge.is_some())
            && !target.is_empty()
            && target.chars().all(|c| c.is_ascii_digit());
        Ok(target.parse::<u64>().ok().filter(|_| picks).map_or(Value::String(target), Value::from))
    }

    fn shot(&self, i: usize, example: &Row) -> Result<Shot> {
        if self.task.example.is_some() {
            return Ok(Shot { question: self.render("example", i, example)?, answer: String::new() });
        }
        let question = self.render("text", i, example)?;
        let answer = match self.target(i, example)? {
            Value::String(text) => text,
            index => {
                let choices = self.choices(i, example)?.unwrap_or_default();
                let index = index.as_u64().unwrap_or(u64::MAX) as usize;
                choices.get(index).cloned().ok_or_else(|| self.problem(i, format!("an example has no choice {index}")))?
            }
        };
        Ok(Shot { question, answer })
    }

    fn document(&self, doc_id: usize, row: &Row, shots: &[&Shot], settings: &Settings<'_>) -> Result<Document> {
        let task = self.task;
        let question = self.render("text", doc_id, row)?;
        let preface = match settings.system_instruction {
            None => task.description.clone(),
            Some(system) if task.description.is_empty() => system.to_owned(),
            Some(system) => format!("{system}\n\n{}", task.description),
        };
        let block = || shots.iter().map(|shot| shot.text()).collect::<String>();
        let context = match settings.chat {
            None => preface + &block() + &question,
            Some(chat) => {
                let mut messages = Vec::new();
                if !preface.is_empty() {
                    messages.push(Message::system(preface));
                }
                if settings.fewshot_as_multiturn {
                    for shot in shots {
                        messages.push(Message::user(&shot.question));
                        messages.push(Message::assistant(&shot.answer));
                    }
                    messages.push(Message::user(question));
                } else {
                    messages.push(Message::user(block() + &question));
                }
                chat(&messages)?
            }
        };
        let ask = match self.choices(doc_id, row)? {
            Some(choices) => Ask::Choices(choices.into_iter().map(|choice| format!(" {choice}")).collect()),
            None if task.kind == Kind::LoglikelihoodRolling => Ask::Rolling,
            None => Ask::Generate(generation(task, settings)?),
        };
        let target = self.target(doc_id, row)?;
        let conversation = settings.conversation && settings.chat.is_some();
        Ok(Document {
            task: task.name.as_str().into(),
            doc_id,
            row: Arc::new(Value::Object(row.clone())),
            context,
            conversation,
            ask,
            target,
        })
    }
}

/// Keeps the rows for which the task's condition holds.
fn only(task: &Task, env: &Environment<'static>, rows: &mut Vec<Row>) -> Result<()> {
    let Some(condition) = &task.only else { return Ok(()) };
    let condition = expression(task, env, condition)?;
    let mut kept = Vec::new();
    for (doc_id, row) in std::mem::take(rows).into_iter().enumerate() {
        let holds = condition.eval(row_context(&row));
        let problem = |e| Error::Document { task: task.name.clone(), doc_id, problem: sentence(&e) };
        if holds.map_err(problem)?.is_true() {
            kept.push(row);
        }
    }
    *rows = kept;
    Ok(())
}

/// A task's derived columns, compiled.
struct Derived<'a>(Vec<(&'a str, Expression<'a, 'a>)>);

impl<'a> Derived<'a> {
    fn new(task: &'a Task, env: &'a Environment<'static>) -> Result<Self> {
        let compiled = task.derive.iter().map(|d| Ok((d.column.as_str(), expression(task, env, &d.value)?)));
        Ok(Self(compiled.collect::<Result<_>>()?))
    }

    fn apply(&self, task: &Task, doc_id: usize, row: &mut Row) -> Result<()> {
        for (column, value) in self.0.iter().filter(|(column, _)| !row.contains_key(*column)).collect::<Vec<_>>() {
            let problem = |problem: String| Error::Document { task: task.name.clone(), doc_id, problem };
            let value = value.eval(row_context(row)).map_err(|e| problem(sentence(&e)))?;
            row.insert((*column).to_owned(), serde_json::to_value(value).map_err(|e| problem(e.to_string()))?);
        }
        Ok(())
    }
}

/// The columns, and all of them as `row` for names that are no identifiers.
fn row_context(row: &Row) -> minijinja::Value {
    let columns = minijinja::Value::from(minijinja::value::Serde(row));
    context! { row => columns.clone(), ..columns }
}

fn sentence(error: &minijinja::Error) -> String {
    match error.kind() {
        minijinja::ErrorKind::UndefinedError => format!("a column that the task reads is missing ({error})"),
        _ => error.to_string(),
    }
}

fn expression<'a>(task: &'a Task, env: &'a Environment<'static>, source: &'a str) -> Result<Expression<'a, 'a>> {
    env.compile_expression(source).map_err(|e| Error::TaskFile { file: task.name.clone(), problem: format!("`{source}`: {e}") })
}

fn environment(task: &Task, random: Shared) -> Result<Environment<'static>> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_syntax(SyntaxConfig::builder().keep_trailing_newline(true).build().expect("only whitespace is set"));
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_filter("capitalize", |value: &str| text::capitalize(value));
    env.add_filter("wikihow", |value: Option<String>| value.map_or_else(|| " ".to_owned(), |value| wikihow(&value)));
    env.add_filter("literal_eval", |value: &str| {
        literal_eval(value)
            .map(|v| minijinja::Value::from(minijinja::value::Serde(&v)))
            .ok_or_else(|| invalid("is no Python literal"))
    });
    env.add_filter("index", |list: Vec<minijinja::Value>, wanted: minijinja::Value| {
        list.iter().position(|value| *value == wanted).ok_or_else(|| invalid("the right answer is not among the choices"))
    });
    env.add_filter("shuffle", move |mut list: Vec<minijinja::Value>| {
        random.lock().unwrap_or_else(PoisonError::into_inner).shuffle(&mut list);
        list
    });
    let templates = [("text", Some(&task.text)), ("target", Some(&task.target)), ("example", task.example.as_ref())];
    for (name, source) in templates.into_iter().filter_map(|(name, source)| Some((name, source?))) {
        let added = env.add_template_owned(name, source.clone());
        added.map_err(|e| Error::TaskFile { file: task.name.clone(), problem: format!("{name}: {e}") })?;
    }
    Ok(env)
}

fn invalid(problem: &'static str) -> minijinja::Error {
    minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, problem)
}

/// What the harness does to texts that came from WikiHow.
fn wikihow(value: &str) -> String {
    static BRACKETS: std::sync::LazyLock<Regex> = std::sync::LazyLock::new(|| Regex::new(r"\[.*?\]").expect("a constant"));
    let value = text::strip(value).replace(" [title]", ". ");
    BRACKETS.replace_all(&value, "").replace("  ", " ")
}

/// A document's request as a line of JSON, without its end.
pub fn request_line(document: &Document) -> String {
    let mut line = Map::new();
    line.insert("task".into(), (&*document.task).into());
    line.insert("doc_id".into(), document.doc_id.into());
    let (kind, key, asked) = match &document.ask {
        Ask::Choices(choices) => ("loglikelihood", "continuations", choices.clone().into()),
        Ask::Generate(kwargs) => ("generate_until", "gen_kwargs", Value::Object(kwargs.0.clone())),
        Ask::Rolling => ("loglikelihood_rolling", "continuations", Value::Array(Vec::new())),
    };
    line.insert("request_type".into(), kind.into());
    line.insert("context".into(), document.context.as_str().into());
    line.insert(key.into(), asked);
    line.insert("target".into(), document.target.clone());
    line.insert("prompt_hash".into(), sha256(&document.context).into());
    Value::Object(line).to_string()
}
