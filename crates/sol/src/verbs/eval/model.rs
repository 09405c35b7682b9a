//! The model under test and its chat template.

use anyhow::{Context, Result};
use sol_engine::{LanguageModel, Message};
use sol_eval::model::{Remote, RemoteOptions, conversation};
use sol_text::{ChatTemplate, RenderOptions};

use super::Args;
use crate::common::{ModelArg, Output, open};

/// Tokens of context where nobody asks for another number: more than any built-in benchmark needs.
const CONTEXT: usize = 8192;

/// Who is measured.
pub(super) enum Subject {
    Local(Box<LanguageModel>),
    Remote(Remote),
}

/// Renders conversations.
type Render = dyn Fn(&[Message]) -> sol_eval::Result<String>;

pub(super) fn open_model(args: &Args, output: &Output) -> Result<LanguageModel> {
    let mut options = args.run.options();
    let path = args.run.model.resolve(output)?;
    let checkpoint = sol_weights::Checkpoint::open(&path)?;
    let spec = sol_model::describe(&checkpoint)?.spec;
    let context = options.context.unwrap_or(CONTEXT.min(spec.context));
    options.context = Some(context);
    options.sequences = args.batch_size.map(usize::from).or_else(|| {
        let kv = options.kv_type.unwrap_or_else(|| sol_model::natural_kv_type(&checkpoint));
        let limits = sol_engine::Limits::now();
        let fits = |n: &usize| {
            let need = sol_engine::Need::new(&checkpoint, &spec, context, *n, kv);
            matches!(limits.fit(&need), sol_engine::Fit::Whole)
        };
        [16, 8, 4, 2].into_iter().find(fits)
    });
    open(&path, options, output)
}

pub(super) fn remote(args: &Args, output: &Output) -> Result<Remote> {
    let (url, model) = (args.base_url.clone().unwrap_or_default(), args.served_model.clone().unwrap_or_default());
    let tokenizer = match &args.tokenizer {
        Some(model) => Some(sol_engine::open_tokenizer(&ModelArg { model: model.clone() }.resolve(output)?)?),
        None => None,
    };
    Ok(Remote::new(RemoteOptions {
        api_key: args.api_key.clone().filter(|key| !key.is_empty()),
        concurrency: args.concurrency.into(),
        retries: args.retries,
        requests_per_minute: args.requests_per_minute,
        tokenizer,
        max_length: args.run.how.ctx,
        ..RemoteOptions::new(url, model)
    })?)
}

/// The template that `--apply-chat-template` names; where it names none, the model's own, or nothing but the conversation, for the
/// server to render. And its source.
pub(super) fn chat(args: &Args, subject: Option<&mut Subject>) -> Result<(Box<Render>, String)> {
    let generation = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    let (template, options) = match (args.apply_chat_template.as_deref(), subject) {
        (Some("chatml"), _) => (ChatTemplate::chatml(), generation),
        (None | Some(""), Some(Subject::Local(model))) => {
            let (template, options) = model.chat_template()?;
            (template.clone(), options)
        }
        (None | Some(""), _) => return Ok((Box::new(|messages| Ok(conversation(messages))), "the server's".into())),
        (Some(file), _) => {
            let source = std::fs::read_to_string(file).with_context(|| format!("can not read the template {file}"))?;
            (ChatTemplate::new(&source)?, generation)
        }
    };
    let source = template.source().to_owned();
    Ok((Box::new(move |messages| Ok(template.render(messages, &options)?)), source))
}
