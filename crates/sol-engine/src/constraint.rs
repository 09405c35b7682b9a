//! Constrained decoding: which tokens an answer may go on with, so that its text has the form that was asked for.
//!
//! A [`Grammar`] is what was asked for, a [`Constrainer`] what a model's vocabulary is to the `llguidance` crate (made once), a
//! [`Constraint`] the state of one answer: the sampler sees only tokens that it allows, each token moves it on, and where it allows
//! nothing more the answer is complete.
//!
//! Grammars come from strangers: their size, the work of reading them and the work of every step are bounded, and one that no text
//! satisfies is an error before anything is generated.

use std::fmt;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{INVALID_TOKEN, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use sol_text::{Encode, Tokenizer};

use crate::{Error, Result};

/// The form of an answer's text.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema (draft 2020-12 and before) describes. `oneOf` is taken as `anyOf`; what can not be enforced is an error.
    JsonSchema(Value),
    /// A text that the pattern matches as a whole; syntax of the `regex` crate, without look-around and back-references.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A grammar in `llguidance`'s variant of Lark, from `start`.
    Lark(String),
}

impl Grammar {
    /// JSON of a schema as a part of a Lark grammar; references hold in it alone.
    pub fn json_in_lark(schema: Value) -> String {
        format!("%json {}", with_options(schema))
    }

    /// Bytes of its source.
    fn len(&self) -> usize {
        match self {
            Self::JsonObject => 0,
            Self::JsonSchema(schema) => schema.to_string().len(),
            Self::Regex(text) | Self::Lark(text) => text.len(),
            Self::Choice(texts) => texts.iter().map(String::len).sum(),
        }
    }
}

/// Longest source of a grammar, in bytes: the work of reading one grows with the square of it. Texts to choose from cost less.
const SOURCE_LIMIT: usize = 48 << 10;
const CHOICES_BYTES: usize = 256 << 10;
/// Most texts to choose from.
const CHOICES_LIMIT: usize = 4096;
/// White space between two parts of JSON: a line break and deep indentation, but no model that has nothing to say goes on for ever.
const JSON_SPACE: &str = r"[ \t\n\r]{1,40}";
/// States of a lexer; each takes about 2 KB.
const LEXER_STATES: usize = 25_000;
/// Work for the lexer and parser items in one step: a few milliseconds.
const STEP_FUEL: u64 = 100_000;
const STEP_ITEMS: usize = 50_000;
/// Reading a grammar recurses with its nesting, which is limited, but not to what every thread's stack has room for.
const STACK: usize = 64 << 20;
/// The token tree's own limits: bytes of a token, and nodes.
const TOKEN_LIMIT: usize = 1000;
const VOCABULARY_LIMIT: usize = 4_000_000;

/// Makes constraints for one model. Cloning is cheap.
#[derive(Clone)]
pub struct Constrainer {
    factory: Arc<ParserFactory>,
}

impl Constrainer {
    /// For a vocabulary of which the model has `vocab` tokens and which ends turns with `ends`. Takes some 100 ms.
    pub fn new(tokenizer: &Tokenizer, vocab: usize, ends: &[u32]) -> Result<Self> {
        let vocab = tokenizer.vocab_size().min(vocab);
        let words: Vec<Vec<u8>> = (0..vocab as u32).map(|id| word(tokenizer, id, ends)).collect();
        if words.iter().map(Vec::len).sum::<usize>() > VOCABULARY_LIMIT {
            return Err(problem("the model's vocabulary is too large for it"));
        }
        let ends: Vec<u32> = ends.iter().copied().filter(|id| (*id as usize) < vocab).collect();
        let info = TokRxInfo::new(vocab as u32, ends.first().copied().unwrap_or(INVALID_TOKEN));
        let mut trie = TokTrie::from(&info, &words);
        if !ends.is_empty() {
            trie = trie.with_eos_tokens(&ends);
        }
        let canonical = is_canonical(tokenizer);
        let vocabulary: TokEnv = Arc::new(Vocabulary { trie, tokenizer: tokenizer.clone(), canonical });
        let slices = SlicedBiasComputer::general_slices();
        let factory = ParserFactory::new(&vocabulary, InferenceCapabilities::default(), &slices);
        let mut factory = factory.map_err(|error| problem(&error.to_string()))?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.max_lexer_states = LEXER_STATES;
        limits.step_lexer_fuel = STEP_FUEL;
        limits.step_max_items = STEP_ITEMS;
        limits.verbose_errors = false;
        Ok(Self { factory: Arc::new(factory) })
    }

    /// The constraint of an answer. Takes milliseconds, for hostile grammars a second: not on a thread that others wait for.
    pub fn constraint(&self, grammar: &Grammar) -> Result<Constraint> {
        let len = grammar.len();
        let most = if matches!(grammar, Grammar::Choice(_)) { CHOICES_BYTES } else { SOURCE_LIMIT };
        if len > most {
            return Err(problem(&format!("it has {len} bytes; at most {most} are allowed")));
        }
        let grammar = source(grammar)?;
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("grammar".into()).stack_size(STACK);
            let work = || {
                let matcher = Matcher::new(self.factory.create_parser(grammar));
                if let Some(error) = matcher.get_error() {
                    return Err(problem(&error));
                }
                let mut constraint = Constraint { matcher };
                // What nothing satisfies shows here.
                constraint.allowed()?;
                Ok(constraint)
            };
            let handle = thread.spawn_scoped(scope, work).map_err(|source| Error::Thread { source })?;
            handle.join().unwrap_or_else(|_| Err(problem("it can not be read")))
        })
    }
}

impl fmt::Debug for Constrainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Constrainer")
    }
}

/// Where an answer is in its grammar.
#[derive(Clone)]
pub struct Constraint {
    matcher: Matcher,
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Constraint")
    }
}

impl Constraint {
    /// The tokens that may come next; never none. Tokens that end a turn are among them where the text is complete.
    pub(crate) fn allowed(&mut self) -> Result<Allowed> {
        self.matcher.compute_mask().map(Allowed).map_err(|error| problem(&error.to_string()))
    }

    /// Goes on by an allowed token; whether the text is complete and nothing can come after it.
    pub(crate) fn take(&mut self, id: u32) -> Result<bool> {
        self.matcher.consume_token(id).map_err(|error| problem(&error.to_string()))?;
        Ok(self.matcher.is_stopped())
    }
}

/// A set of tokens.
pub(crate) struct Allowed(SimpleVob);

impl Allowed {
    /// Leaves the logits of these tokens alone, and makes all others impossible.
    pub(crate) fn apply(&self, logits: &mut [f32]) {
        let known = self.0.len().min(logits.len());
        logits[known..].fill(f32::NEG_INFINITY);
        self.0.iter_unset_entries(|id| {
            if let Some(logit) = logits.get_mut(id) {
                *logit = f32::NEG_INFINITY;
            }
        });
    }
}

/// The error of a grammar, from `llguidance`'s words: traces and dumps behind the first lines are left out.
fn problem(words: &str) -> Error {
    let words = words.split("\n<").next().unwrap_or_default().trim();
    let words = match words {
        "" => "it can not be followed",
        words if words.starts_with("panic") => "it is malformed or too complex",
        "NoExtensionBias" => "no text satisfies it",
        words => words,
    };
    // In one line: it ends up in logs.
    let short = words.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect();
    Error::Grammar { problem: short }
}

/// A schema with what `llguidance` is to do with it, in place of what it says of that itself.
fn with_options(mut schema: Value) -> Value {
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    if let Some(object) = schema.as_object_mut() {
        object.insert("x-guidance".into(), json!({"whitespace_pattern": JSON_SPACE, "coerce_one_of": true}));
    }
    schema
}

/// A grammar as `llguidance` takes it.
fn source(grammar: &Grammar) -> Result<TopLevelGrammar> {
    let of_schema = |schema| match with_options(schema) {
        schema @ Value::Object(_) => Ok(TopLevelGrammar::from_json_schema(schema)),
        _ => Err(problem("a JSON schema is an object")),
    };
    match grammar {
        Grammar::JsonObject => of_schema(json!({"type": "object"})),
        Grammar::JsonSchema(schema) => of_schema(schema.clone()),
        Grammar::Regex(pattern) => Ok(TopLevelGrammar::from_regex(pattern)),
        Grammar::Lark(text) => Ok(TopLevelGrammar::from_lark(text.clone())),
        Grammar::Choice(texts) if texts.is_empty() => Err(problem("there is nothing to choose from")),
        Grammar::Choice(texts) if texts.len() > CHOICES_LIMIT => {
            Err(problem(&format!("{} texts to choose from; at most {CHOICES_LIMIT} are allowed", texts.len())))
        }
        Grammar::Choice(texts) => {
            let alternatives: Vec<String> = texts.iter().map(|text| escaped(text)).collect();
            Ok(TopLevelGrammar::from_regex(&format!("(?:{})", alternatives.join("|"))))
        }
    }
}

/// A pattern that matches the text alone.
fn escaped(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation() {
            pattern.push('\\');
        }
        match c {
            '\n' => pattern.push_str("\\n"),
            '\r' => pattern.push_str("\\r"),
            c => pattern.push(c),
        }
    }
    pattern
}

/// What a token adds to a text. Special tokens add nothing that a grammar takes for text, only their names behind a marker.
fn word(tokenizer: &Tokenizer, id: u32, ends: &[u32]) -> Vec<u8> {
    const MARKER: u8 = TokTrie::SPECIAL_TOKEN_MARKER;
    let bytes = tokenizer.token_bytes(id);
    if tokenizer.is_special(id) || ends.contains(&id) {
        let name = tokenizer.token(id).unwrap_or_default().as_bytes();
        return if name.len() < TOKEN_LIMIT { [&[MARKER], name].concat() } else { Vec::new() };
    }
    // No UTF-8 has the marker.
    if bytes.len() > TOKEN_LIMIT || bytes.contains(&MARKER) { Vec::new() } else { bytes }
}

/// Whether a piece of a text is encoded as its bytes, with nothing added in front.
fn is_canonical(tokenizer: &Tokenizer) -> bool {
    ["{\"a\": 1}", " é", "A\n  b"].iter().all(|text| {
        let ids = tokenizer.encode(text, Encode { add_bos: false, parse_special: false }).unwrap_or_default();
        let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.token_bytes(*id)).collect();
        bytes == text.as_bytes()
    })
}

/// A model's vocabulary, as `llguidance` asks for it.
struct Vocabulary {
    trie: TokTrie,
    tokenizer: Tokenizer,
    canonical: bool,
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        if !self.canonical {
            return self.trie.greedy_tokenize(bytes);
        }
        let encode = |text: &str| {
            let ids = self.tokenizer.encode(text, Encode { add_bos: false, parse_special: false });
            ids.unwrap_or_else(|_| self.trie.greedy_tokenize(text.as_bytes()))
        };
        self.trie.tokenize_with_greedy_fallback(bytes, encode)
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.canonical
    }
}
