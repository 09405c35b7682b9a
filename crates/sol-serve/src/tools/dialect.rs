//! How models write calls.

use serde_json::{Value, json};
use sol_engine::Grammar;
use sol_text::{ChatTemplate, Tokenizer};

use super::Function;

/// A model's way to write a call: between marks, an object with the function's name and its arguments.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dialect {
    /// What a template has in it whose model writes so.
    sign: &'static str,
    /// Before a call; nothing where a call is all of an answer.
    pub(super) open: &'static str,
    /// Behind it.
    pub(super) close: &'static str,
    /// White space on both sides of the object.
    space: &'static str,
    /// Whether calls stand in a list.
    list: bool,
    /// The key of the arguments.
    arguments: &'static str,
    /// What an id begins with, and how many letters and digits follow: some templates refuse others.
    id: (&'static str, usize),
}

const CALL_ID: (&str, usize) = ("call_", 24);

/// Hermes and Qwen.
const MARKED: Dialect = Dialect {
    sign: "<tool_call>",
    open: "<tool_call>",
    close: "</tool_call>",
    space: "\n",
    list: false,
    arguments: "arguments",
    id: CALL_ID,
};

/// Mistral, up to its third version.
const LISTED: Dialect =
    Dialect { sign: "[TOOL_CALLS]", open: "[TOOL_CALLS]", close: "", space: "", list: true, arguments: "arguments", id: ("", 9) };

/// Llama 3.1 and after.
const BARE: Dialect =
    Dialect { sign: "\"parameters\"", open: "", close: "", space: "", list: false, arguments: "parameters", id: CALL_ID };

/// What models are told whose template knows no tools.
const TOLD: Dialect = Dialect { sign: "", open: "", close: "", space: "", list: false, arguments: "arguments", id: CALL_ID };

impl Dialect {
    /// That of a model, by its template.
    pub(crate) fn of(template: &ChatTemplate) -> Self {
        let known = [MARKED, LISTED, BARE].into_iter().find(|dialect| template.source().contains(dialect.sign));
        known.filter(|_| template.supports_tools()).unwrap_or(TOLD)
    }

    /// A call as the model is told to write it.
    pub(super) fn call(&self, name: &str, arguments: &str) -> String {
        format!("{{\"name\": {}, \"{}\": {arguments}}}", json!(name), self.arguments)
    }

    /// The dialect of models whose template knows no tools.
    pub(super) fn told() -> Self {
        TOLD
    }

    /// The marks that are special tokens of a vocabulary, whose text is not shown.
    pub(crate) fn hidden_marks(&self, tokenizer: &Tokenizer) -> Vec<(u32, &'static str)> {
        let special = |mark: &'static str| Some((tokenizer.id(mark).filter(|id| tokenizer.is_special(*id))?, mark));
        [self.open, self.close].into_iter().filter(|mark| !mark.is_empty()).filter_map(special).collect()
    }

    /// An id that nobody else has.
    pub(crate) fn id(&self) -> String {
        let (start, len) = self.id;
        std::iter::repeat_with(fastrand::alphanumeric).take(len).fold(start.to_owned(), |mut id, c| {
            id.push(c);
            id
        })
    }

    /// A grammar (Lark) of one or, where there may be, `several` calls of `functions`, with arguments that they take; or else of
    /// JSON of the schema `answer`. Each schema is a document of its own, in which its references hold.
    pub(super) fn grammar(
        &self,
        tokenizer: &Tokenizer,
        functions: &[&Function],
        several: bool,
        answer: Option<&Value>,
    ) -> String {
        let hidden = self.hidden_marks(tokenizer);
        let mark = |mark: &str| match hidden.iter().find(|(_, hidden)| *hidden == mark) {
            Some((id, _)) => format!("<[{id}]>"),
            None => literal(mark),
        };
        let [open, close] = [self.open, self.close].map(mark);
        let space = literal(self.space);
        let mut rules = match (self.list, several && !self.open.is_empty()) {
            (true, true) => format!("calls: {open} \"[\" call (\", \" call)* \"]\"\n"),
            (true, false) => format!("calls: {open} \"[\" call \"]\"\n"),
            (false, true) => format!("calls: marked ({space} marked)*\nmarked: {open} {space} call {space} {close}\n"),
            (false, false) => format!("calls: {open} {space} call {space} {close}\n"),
        };
        let start = if answer.is_some() { "calls | answer" } else { "calls" };
        let alternatives: Vec<String> = (0..functions.len()).map(|i| format!("call{i}")).collect();
        rules = format!("start: {start}\n{rules}call: {}\n", alternatives.join(" | "));
        for (i, function) in functions.iter().enumerate() {
            let head = format!("{{\"name\": {}, \"{}\": ", json!(function.name), self.arguments);
            rules += &format!(
                "call{i}: {} arguments{i} \"}}\"\narguments{i}: {}\n",
                literal(&head),
                Grammar::json_in_lark(function.parameters())
            );
        }
        if let Some(answer) = answer {
            rules += &format!("answer: {}\n", Grammar::json_in_lark(answer.clone()));
        }
        rules
    }
}

/// A text in a grammar.
fn literal(text: &str) -> String {
    json!(text).to_string()
}
