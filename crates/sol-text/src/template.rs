//! From a conversation to the prompt that a model was trained on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use jiff::civil::DateTime;
use minijinja::Environment;
use minijinja::value::{Serde, Value};
use serde_json::json;

use crate::hf::{read_json, read_optional, text};
use crate::jinja::{self, Refusal};
use crate::message::Message;
use crate::{Error, Result};

/// Fuel for one rendering, about one unit per instruction or per 64 bytes of data: published templates
/// use a few hundred per message.
const FUEL: u64 = 50_000;
const FUEL_PER_MESSAGE: u64 = 2_000;

/// Bytes of message per unit of fuel: enough to copy each message a dozen times.
const BYTES_PER_FUEL: u64 = 5;

/// A chat template. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    source: String,
    env: Environment<'static>,
    /// Whether the model has a system prompt whatever its template lets through.
    system: bool,
    supports_system: OnceLock<bool>,
    supports_tools: OnceLock<bool>,
}

/// What a template may refer to beside the messages.
#[derive(Debug, Clone, Default)]
pub struct RenderOptions {
    /// End with the header of the answer, so that the model goes on with the answer itself.
    pub add_generation_prompt: bool,
    /// The text of the token that begins a prompt.
    pub bos_token: String,
    /// The text of the token that ends one.
    pub eos_token: String,
    /// Further variables, such as `tools`, `date_string` or `enable_thinking`.
    pub extra: serde_json::Map<String, serde_json::Value>,
    /// The time that `strftime_now` tells; the clock's if absent.
    pub now: Option<DateTime>,
}

impl ChatTemplate {
    /// A template from its Jinja source.
    pub fn new(source: &str) -> Result<Self> {
        Self::build(source, true)
    }

    fn build(source: &str, system: bool) -> Result<Self> {
        let env = jinja::on_large_stack(|| jinja::environment(source).map_err(|e| describe(&e)))?;
        let (supports_system, supports_tools) = (OnceLock::new(), OnceLock::new());
        Ok(Self { inner: Arc::new(Inner { source: source.to_owned(), env, system, supports_system, supports_tools }) })
    }

    /// ChatML, the form to assume where a model brings no template:
    /// `<|im_start|>role\ncontent<|im_end|>\n` for each message.
    pub fn chatml() -> Self {
        Self::build(CHATML, true).expect("the template of this module parses")
    }

    /// The same template for a model that was trained without system prompts, which its template may
    /// not know: Solar Pro Preview's is plain ChatML.
    pub fn without_system(&self) -> Self {
        Self {
            inner: Arc::new(Inner {
                source: self.inner.source.clone(),
                env: self.inner.env.clone(),
                system: false,
                supports_system: OnceLock::new(),
                supports_tools: OnceLock::new(),
            }),
        }
    }

    /// The template of a Hugging Face directory: chat_template.jinja, else the `chat_template` of
    /// tokenizer_config.json, of several the one named `default`.
    pub fn from_dir(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join("chat_template.jinja");
        if let Some(bytes) = read_optional(&path)? {
            let source = text(&path.display().to_string(), bytes)?;
            return Self::new(&source).map(Some);
        }
        let config = read_json(&dir.join("tokenizer_config.json"))?;
        let template = &config["chat_template"];
        let source = match template.as_array() {
            None => template.as_str(),
            Some(named) => named.iter().find(|entry| entry["name"] == "default").and_then(|entry| entry["template"].as_str()),
        };
        source.map(Self::new).transpose()
    }

    /// The Jinja source.
    pub fn source(&self) -> &str {
        &self.inner.source
    }

    /// The prompt for a conversation.
    ///
    /// A system message is an error where the template has no place for it, never silently lost.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        if messages.iter().any(|message| message.role == "system") && !self.supports_system() {
            return Err(Error::NoSystemPrompt);
        }
        self.render_unchecked(messages, options)
    }

    /// Whether a system message reaches the model. Found out by rendering one.
    pub fn supports_system(&self) -> bool {
        *self.inner.supports_system.get_or_init(|| {
            const SENTINEL: &str = "solarium-system-sentinel";
            let render = |messages: &[Message]| {
                let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
                self.render_unchecked(messages, &options)
            };
            let user = Message::user("x");
            self.inner.system
                && match render(&[Message::system(SENTINEL), user.clone()]) {
                    Ok(prompt) => prompt.contains(SENTINEL),
                    // A template that fails without a system message too has another trouble, which
                    // the real rendering will tell.
                    Err(_) => render(&[user]).is_err(),
                }
        })
    }

    /// Whether tools, an extra variable, reach the model. Found out by rendering one.
    pub fn supports_tools(&self) -> bool {
        *self.inner.supports_tools.get_or_init(|| {
            const SENTINEL: &str = "solarium_tool_sentinel";
            let function = json!({"name": SENTINEL, "description": "x", "parameters": {"type": "object", "properties": {}}});
            let tools = json!([{"type": "function", "function": function}]);
            let extra = serde_json::Map::from_iter([("tools".to_owned(), tools)]);
            let options = RenderOptions { add_generation_prompt: true, extra, ..RenderOptions::default() };
            let prompt = self.render_unchecked(&[Message::user("x")], &options);
            prompt.is_ok_and(|prompt| prompt.contains(SENTINEL))
        })
    }

    fn render_unchecked(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        let more = |message: &Message| message.more.values().map(|value| value.to_string().len()).sum::<usize>();
        let bytes: usize = messages.iter().map(|message| message.content.len() + more(message)).sum();
        // Tools come as an extra variable, and templates walk through every property of theirs.
        let extra: usize = options.extra.values().map(|value| value.to_string().len()).sum();
        let fuel = FUEL + FUEL_PER_MESSAGE * messages.len() as u64 + bytes as u64 / BYTES_PER_FUEL + extra as u64;
        let mut env = self.inner.env.clone();
        env.set_fuel(Some(fuel));
        let now = options.now.unwrap_or_else(|| jiff::ZonedDateTime::now().datetime());
        jinja::set_now(&mut env, now);

        let mut context = BTreeMap::from([
            ("messages", Value::from(Serde(messages))),
            ("add_generation_prompt", Value::from(options.add_generation_prompt)),
            ("bos_token", Value::from(options.bos_token.as_str())),
            ("eos_token", Value::from(options.eos_token.as_str())),
            // As transformers passes them when there are none.
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ]);
        for (name, value) in &options.extra {
            context.insert(name, Value::from(Serde(value)));
        }
        jinja::on_large_stack(|| {
            env.get_template(jinja::NAME).and_then(|template| template.render(Value::from(context))).map_err(|e| describe(&e))
        })
    }
}

const CHATML: &str = "{% for message in messages %}<|im_start|>{{ message['role'] }}\n\
    {{ message['content'] }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// A template's failure: its own refusal where it made one, else what and where.
fn describe(error: &minijinja::Error) -> Error {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(Refusal(words)) = cause.downcast_ref() {
            return Error::TemplateRefused(words.clone());
        }
        source = cause.source();
    }
    let mut what = match error.kind() {
        minijinja::ErrorKind::OutOfFuel => "it does too much work for a template".to_owned(),
        _ => error.to_string(),
    };
    if let (Some(line), false) = (error.line(), what.contains("(in ")) {
        what.push_str(&format!(" (line {line})"));
    }
    Error::Template(what)
}
