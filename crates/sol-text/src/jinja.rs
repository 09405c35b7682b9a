//! The Jinja dialect of Hugging Face chat templates.
//!
//! Beyond Jinja itself they expect Python's string methods, `raise_exception`, `strftime_now`, loop
//! controls, a `tojson` that writes what Python's `json.dumps` writes, blocks that swallow the line
//! break behind them, and a `generation` block that only marks text.

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use jiff::civil::DateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, State};
use regex::Regex;

use crate::json;

/// The name under which an environment holds its template.
pub(crate) const NAME: &str = "chat template";

/// How deep macros and includes may nest: enough for any real template, and safe on a small stack.
const RECURSION_LIMIT: usize = 100;

/// An environment that holds one template.
pub(crate) fn environment(source: &str) -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_recursion_limit(RECURSION_LIMIT);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_function("raise_exception", raise_exception);
    env.add_filter("tojson", to_json);
    env.add_template_owned(NAME, without_generation_blocks(source).into_owned())?;
    Ok(env)
}

/// Makes `strftime_now` tell this time.
pub(crate) fn set_now(env: &mut Environment<'_>, now: DateTime) {
    env.add_function("strftime_now", move |format: &str| {
        jiff::fmt::strtime::format(format, now).map_err(|e| invalid(format!("strftime_now: {e}")))
    });
}

/// What a template said when it refused a conversation.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_owned()).with_source(Refusal(message.to_owned())))
}

/// `{% generation %}…{% endgeneration %}` marks what the assistant said, for training; here it is text.
fn without_generation_blocks(source: &str) -> Cow<'_, str> {
    static TAG: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("a valid pattern"));
    TAG.replace_all(source, |tag: &regex::Captures<'_>| {
        let word = if tag.get(2).is_some() { "endif" } else { "if true" };
        format!("{{%{} {word} {}%}}", &tag[1], &tag[3])
    })
}

/// `tojson` as transformers defines it: Python's `json.dumps` with `ensure_ascii=False`.
fn to_json(state: &State<'_, '_>, value: &Value, args: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = args.get("indent")?;
    let separators: Option<Vec<String>> = args.get("separators")?;
    let sort_keys: Option<bool> = args.get("sort_keys")?;
    let ensure_ascii: Option<bool> = args.get("ensure_ascii")?;
    args.assert_all_used()?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.as_str(), key.as_str()),
        None if indent.is_some() => (",", ": "),
        None => (", ", ": "),
        Some(_) => return Err(invalid("tojson: separators must be two strings")),
    };
    let mut writer = json::Writer {
        state,
        item,
        key,
        indent,
        sort_keys: sort_keys == Some(true),
        ensure_ascii: ensure_ascii == Some(true),
        out: String::new(),
    };
    writer.write(value, 0)?;
    Ok(Value::from(writer.out))
}

fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
