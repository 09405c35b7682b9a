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
        let mut json = serde_json::Deserializer::from_slice(&self.0);
        let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            let inner = error.into_inner();
            match inner.classify() {
                serde_json::error::Category::Data if path != "." => Refused::field(path.clone(), format!("'{path}': {inner}")),
                serde_json::error::Category::Data => Refused::field(missing(&inner), format!("the body is wrong: {inner}")),
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

/// The field of "missing field `x`".
fn missing(error: &serde_json::Error) -> String {
    error.to_string().split('`').nth(1).unwrap_or_default().to_owned()
}
