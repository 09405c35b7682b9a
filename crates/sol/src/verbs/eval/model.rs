//! The model under test and its chat template.

use anyhow::{Context, Result};
use sol_engine::{LanguageModel, Message};
use sol_text::{ChatTemplate, RenderOptions};

use super::Args;
use crate::common::{Output, open};

/// Tokens of context where nobody asks for another number: more than any built-in benchmark needs.
const CONTEXT: usize = 8192;

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

/// The template that `--apply-chat-template` names, the model's own where it names none; and its source.
pub(super) fn chat(args: &Args, model: Option<&mut LanguageModel>) -> Result<(Box<Render>, String)> {
    let generation = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    let (template, options, name) = match (args.apply_chat_template.as_deref(), model) {
        (Some("chatml"), _) => (ChatTemplate::chatml(), generation, "chatml".to_owned()),
        (None | Some(""), Some(model)) => {
            let (template, options) = model.chat_template()?;
            (template.clone(), options, "the model's".to_owned())
        }
        (file, _) => {
            let file = file.unwrap_or_default();
            let source = std::fs::read_to_string(file).with_context(|| format!("can not read the template {file}"))?;
            (ChatTemplate::new(&source)?, generation, source)
        }
    };
    Ok((Box::new(move |messages| Ok(template.render(messages, &options)?)), name))
}
