//! The Jinja dialect of Hugging Face chat templates.
//!
//! Beyond Jinja itself they expect Python's string methods, `raise_exception`, `strftime_now`, loop
//! controls, a `tojson` that writes what Python's `json.dumps` writes, blocks that swallow the line
//! break behind them, and a `generation` block that only marks text.
//!
//! A template comes with a model from anywhere, so rendering is bounded: work and text by fuel, recursion
//! by a limit and a large stack, the size of values that are written out by [`json::check`]. What the
//! engine gives no handle on, and what therefore still can exhaust memory, are lists doubled with `+`
//! some thirty times, and lists that hold each other doubled as often, compared or joined with `~`.

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

/// Bytes of stack for parsing and rendering. The engine recurses once per level of an expression and
/// of a value, so a hostile template may go as deep as its length or its fuel allows. Only what is used
/// is ever backed by memory.
const STACK: usize = 256 << 20;

/// Bytes of a template's source, and uses of `+` and `~` in it. The longest published ones have 17 KB and
/// a hundred of these; the engine folds constants in time that grows with the square of their number.
const SOURCE_LIMIT: usize = 64 << 10;
const JOINS_LIMIT: usize = 4096;

/// Runs `work` where a template can not exhaust the stack.
pub(crate) fn on_large_stack<T: Send>(work: impl FnOnce() -> crate::Result<T> + Send) -> crate::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chat template".into()).stack_size(STACK);
        let handle =
            thread.spawn_scoped(scope, work).map_err(|e| crate::Error::Template(format!("no thread to render it on: {e}")))?;
        handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// An environment that holds one template.
pub(crate) fn environment(source: &str) -> Result<Environment<'static>, Error> {
    let joins = source.bytes().filter(|b| matches!(b, b'+' | b'~')).count();
    if source.len() > SOURCE_LIMIT || joins > JOINS_LIMIT {
        return Err(invalid(format!("{} bytes with {joins} joins are more than any template needs", source.len())));
    }
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_recursion_limit(RECURSION_LIMIT);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_formatter(|out, state, value| {
        json::check(value)?;
        minijinja::escape_formatter(out, state, value)
    });
    env.set_unknown_method_callback(python_method);
    env.add_filter("string", string);
    env.add_function("raise_exception", raise_exception);
    env.add_filter("tojson", to_json);
    // In Python nothing can be done with None, in this engine it is an empty list.
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
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

fn python_method(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    args.iter().try_for_each(json::check)?;
    if let ("format", Some(format)) = (method, value.as_str()) {
        // Widths such as `{:>9999999999}` are paid for before the padding is made.
        let widths = format.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
        let total = widths.fold(0u64, |sum, digits| sum.saturating_add(digits.parse().unwrap_or(u64::MAX)));
        state.consume_fuel(total / 64)?;
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

fn string(value: &Value) -> Result<String, Error> {
    json::check(value)?;
    Ok(value.to_string())
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
