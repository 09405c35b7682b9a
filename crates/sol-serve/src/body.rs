//! Bodies in: bounded, timed, and parsed with the name of the field that is wrong.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;

use crate::App;
use crate::error::{Refused, Result};

/// Largest body: as much text as the longest contexts hold, several times over.
const BODY_LIMIT: usize = 8 << 20;
/// Of a larger one so much is read and dropped.
const DROPPED: usize = 128 << 20;

/// The bytes of a JSON body.
pub(crate) struct Raw(Vec<u8>);

impl FromRequest<Arc<App>> for Raw {
    type Rejection = Refused;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self> {
        // Without this any web page could ask, as browsers send plain text to every host unasked.
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
            let message = format!("the content type is '{kind}': send application/json");
            return Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        let too_large = || {
            let message = format!("the body is larger than {} MiB", BODY_LIMIT >> 20);
            Refused::new(StatusCode::PAYLOAD_TOO_LARGE, message).code("request_too_large")
        };
        match tokio::time::timeout(app.patience, read(request.into_body())).await {
            Ok(Some(Ok(bytes))) => Ok(Self(bytes)),
            Ok(Some(Err(TooLarge))) => Err(too_large()),
            Ok(None) => Err(Refused::new(StatusCode::BAD_REQUEST, "the body ended before it was whole")),
            Err(_) => Err(Refused::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
        }
    }
}

struct TooLarge;

/// The body; nothing of one that breaks off. What is too large is read on and dropped for a while: a client that is still sending
/// when its connection is closed never sees why.
async fn read(body: Body) -> Option<std::result::Result<Vec<u8>, TooLarge>> {
    let (mut bytes, mut len) = (Vec::new(), 0);
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.ok()?;
        len += piece.len();
        if len <= BODY_LIMIT {
            bytes.extend_from_slice(&piece);
        } else {
            bytes = Vec::new();
        }
        if len > DROPPED {
            break;
        }
    }
    Some(if len <= BODY_LIMIT { Ok(bytes) } else { Err(TooLarge) })
}

impl Raw {
    /// What the body says; fields that `T` does not know are ignored.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        // A list would be taken as the fields in their order.
        if let Some(start @ (b'[' | b'"')) = self.0.iter().find(|byte| !byte.is_ascii_whitespace()) {
            let given = if *start == b'[' { "a list" } else { "a string" };
            let other = serde_json::from_slice::<serde::de::IgnoredAny>(&self.0);
            return Err(other.map_or_else(|error| malformed(&error), |_| wrong(".", &format!("expected an object, not {given}"))));
        }
        let mut json = serde_json::Deserializer::from_slice(&self.0);
        let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            let inner = error.into_inner();
            match inner.classify() {
                serde_json::error::Category::Data => wrong(&path, &inner.to_string()),
                _ => malformed(&inner),
            }
        })?;
        json.end().map_err(|error| malformed(&error))?;
        Ok(parsed)
    }
}

fn malformed(error: &serde_json::Error) -> Refused {
    Refused::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {error}")).code("invalid_json")
}

/// Says what the parser says of the value at `path` in words of JSON instead of Rust.
fn wrong(path: &str, said: &str) -> Refused {
    let said = said.rsplit_once(" at line ").map_or(said, |(said, _)| said);
    let (place, field) =
        if path == "." { ("the body".to_owned(), String::new()) } else { (format!("'{path}'"), path.to_owned()) };
    if let Some(name) = said.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        let field = if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") };
        return Refused::field(field.clone(), format!("'{field}' is missing"));
    }
    let kinds = said.strip_prefix("invalid type: ").or_else(|| said.strip_prefix("invalid value: "));
    let message = match (kinds.and_then(|kinds| kinds.rsplit_once(", expected ")), said.strip_prefix("expected ")) {
        (Some((given, expected)), _) => format!("{place} must be {}, not {}", kind(expected), value(given)),
        (None, Some(expected)) => format!("{place} must be {expected}"),
        (None, None) => format!("{place}: {said}"),
    };
    Refused::field(field, message)
}

/// A type of Rust's, in words.
fn kind(expected: &str) -> &str {
    match expected {
        "f64" | "f32" => "a number",
        "i64" => "a whole number",
        "u32" | "u64" | "usize" => "a whole number, not below 0",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        _ if expected.starts_with("struct ") => "an object",
        other => other,
    }
}

/// A value that the parser met: with its kind in front, but where the value tells it.
fn value(given: &str) -> String {
    match given {
        "map" => "an object".into(),
        "sequence" => "a list".into(),
        "unit" => "null".into(),
        _ => match given.split_once(' ') {
            Some(("string", text)) => format!("the string {text}"),
            Some(("integer" | "boolean", value)) => value.trim_matches('`').into(),
            Some(("floating", value)) => value.trim_start_matches("point ").trim_matches('`').into(),
            _ => given.into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Fields {
        number: Option<f64>,
        whole: Option<i64>,
        ids: Option<Vec<u32>>,
        flag: Option<bool>,
        text: Option<String>,
        map: Option<BTreeMap<String, f64>>,
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Inner {
        needed: bool,
    }

    #[test]
    fn wrong_types_are_told_in_words_of_json() {
        for (body, field, message) in [
            (r#"{"number": "hot"}"#, "number", "'number' must be a number, not the string \"hot\""),
            (
                r#"{"number": "a, expected b at line 1"}"#,
                "number",
                "'number' must be a number, not the string \"a, expected b at line 1\"",
            ),
            (r#"{"number": true}"#, "number", "'number' must be a number, not true"),
            (r#"{"whole": 1.5}"#, "whole", "'whole' must be a whole number, not 1.5"),
            (r#"{"ids": [1, -2]}"#, "ids[1]", "'ids[1]' must be a whole number, not below 0, not -2"),
            (r#"{"ids": {}}"#, "ids", "'ids' must be a list, not an object"),
            (r#"{"flag": 1}"#, "flag", "'flag' must be true or false, not 1"),
            (r#"{"text": []}"#, "text", "'text' must be a string, not a list"),
            (r#"{"map": 5}"#, "map", "'map' must be an object, not 5"),
            (r#"{"map": {"x": null}}"#, "map.x", "'map.x' must be a number, not null"),
            (r#"{"inner": "x"}"#, "inner", "'inner' must be an object, not the string \"x\""),
            (r#"{"inner": {}}"#, "inner.needed", "'inner.needed' is missing"),
            ("[7]", "", "the body must be an object, not a list"),
            ("\"x\"", "", "the body must be an object, not a string"),
        ] {
            let refused = Raw(body.into()).parse::<Fields>().unwrap_err().body();
            assert_eq!(refused["error"]["message"], message, "{body}");
            assert_eq!(refused["error"]["param"], field, "{body}");
        }
    }
}
