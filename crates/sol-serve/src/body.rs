//! Bodies in: bounded, timed, and parsed with the name of the field that is wrong.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;

use crate::error::{Refused, Result};

/// Largest body: as much text as the longest contexts hold, several times over.
pub(crate) const BODY_LIMIT: usize = 8 << 20;
/// A client that takes longer to send it is not waited for.
const BODY_TIME: Duration = Duration::from_secs(30);

/// The bytes of a JSON body.
pub(crate) struct Raw(Bytes);

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = Refused;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
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
        let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|n| n.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|n| n > BODY_LIMIT as u64) {
            return Err(too_large());
        }
        match tokio::time::timeout(BODY_TIME, read(request.into_body())).await {
            Ok(Some(bytes)) if bytes.len() <= BODY_LIMIT => Ok(Self(bytes)),
            Ok(Some(_)) => Err(too_large()),
            Ok(None) => Err(Refused::new(StatusCode::BAD_REQUEST, "the body ended before it was whole")),
            Err(_) => Err(Refused::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
        }
    }
}

/// The body; a little more than the limit of one that is too large; nothing of one that breaks off.
async fn read(body: Body) -> Option<Bytes> {
    match to_bytes(body, BODY_LIMIT).await {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            let large = std::error::Error::source(&error).is_some_and(|cause| cause.to_string().contains("length limit"));
            large.then(|| Bytes::from(vec![0; BODY_LIMIT + 1]))
        }
    }
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
