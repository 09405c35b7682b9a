//! `POST /v1/embeddings`: the mean of the last layer's hidden states, after the final norm, scaled to unit length.
//!
//! The models are decoders that nobody trained for this: texts that resemble each other lie near each other, but a model made for
//! embeddings does better.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use sol_engine::{Event, Request};

use crate::App;
use crate::ask::ask;
use crate::body::Raw;
use crate::completions::{One, Prompts, encode};
use crate::error::{Refused, Result};
use crate::log::Record;
use crate::models::Model;

/// Most texts of one request: OpenAI's.
pub(crate) const INPUTS: usize = 2048;

#[derive(Deserialize)]
pub(crate) struct EmbeddingParams {
    model: Option<String>,
    input: Prompts,
    encoding_format: Option<String>,
    dimensions: Option<IgnoredAny>,
    #[serde(rename = "user")]
    _user: Option<String>,
    /// Whether a text gets the tokens that the model's configuration puts in front.
    add_special_tokens: Option<bool>,
}

/// Embeds texts.
pub(crate) async fn embeddings(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Arc<Record>>,
    raw: Raw,
) -> Result<Response> {
    let params: EmbeddingParams = raw.parse()?;
    drop(raw);
    let (model, name) = app.model(params.model.as_deref()).await?;
    if params.dimensions.is_some() {
        return Err(Refused::unsupported("dimensions", "shortening embeddings is"));
    }
    let base64 = match params.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            let message = format!("'encoding_format' is '{other}': it must be float or base64");
            return Err(Refused::field("encoding_format", message));
        }
    };
    let inputs = params.input.0;
    if inputs.len() > INPUTS {
        let message = format!("'input' has {} texts: at most {INPUTS} fit in one request", inputs.len());
        return Err(Refused::field("input", message));
    }
    if let Some(i) = inputs.iter().position(One::is_empty) {
        let name = if inputs.len() == 1 { "input".to_owned() } else { format!("input[{i}]") };
        return Err(Refused::field(name.clone(), format!("'{name}' is empty")));
    }
    let add_bos = params.add_special_tokens.unwrap_or(true);
    let read = move |model: &Model| {
        let request =
            |input| Ok(Request { prompt: encode(model, input, add_bos, false, "input")?.0, embed: true, ..Request::default() });
        inputs.into_iter().map(request).collect::<Result<Vec<_>>>()
    };
    let mut requests = model.blocking(read).await?;
    let (mut data, mut tokens) = (Vec::with_capacity(requests.len()), 0);
    // As many at a time as run together: the others' places in the queue stay free.
    while !requests.is_empty() {
        let rest = requests.split_off(requests.len().min(model.sequences));
        tokens += requests.iter().map(|request| request.prompt.len()).sum::<usize>();
        let begun = data.len();
        data.resize(begun + requests.len(), Value::Null);
        let mut asked = ask(&model, &record, std::mem::replace(&mut requests, rest), 1, "input")?;
        while let Some((i, event)) = asked.next().await {
            match event {
                Event::Read { hidden, .. } => {
                    let embedding = written(unit(hidden), base64);
                    data[begun + i] = json!({"object": "embedding", "index": begun + i, "embedding": embedding});
                }
                Event::Failed(error) => return Err(Refused::from(&*error)),
                Event::Token { .. } | Event::Done { .. } => {}
            }
        }
    }
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    Ok(Json(json!({"object": "list", "data": data, "model": name, "usage": usage})).into_response())
}

/// Scaled to length 1, as OpenAI's are.
fn unit(mut values: Vec<f32>) -> Vec<f32> {
    let length = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        values.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
    }
    values
}

/// A list of numbers, or base64 of little-endian 32-bit floats.
fn written(values: Vec<f32>, base64: bool) -> Value {
    if !base64 {
        return values.into();
    }
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    STANDARD.encode(bytes).into()
}
