//! What a client is told when it gets no answer: a status and OpenAI's error object.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::log::Reason;

/// An error of this crate: the server could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address can not be had.
    #[error("can not listen on {address}: {source}")]
    Listen {
        /// Host and port.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// An origin that no browser sends.
    #[error("--cors {origin}: not an origin; write it as https://chat.example or *")]
    Origin {
        /// As it was given.
        origin: String,
    },
    /// The model.
    #[error(transparent)]
    Engine(#[from] sol_engine::Error),
}

/// Why a request is not answered.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    status: StatusCode,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
}

/// What handlers return.
pub(crate) type Result<T, E = Refused> = std::result::Result<T, E>;

/// Seconds after which a client should try again where the server is full or going.
const RETRY_AFTER: &str = "1";

/// Bytes of a message and of a field's name: both may quote what the client sent.
const MESSAGE: usize = 1000;
const PARAM: usize = 100;

fn shortened(mut text: String, len: usize) -> String {
    if text.len() > len {
        text.truncate(text.floor_char_boundary(len));
        text.push('…');
    }
    text
}

impl Refused {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: shortened(message.into(), MESSAGE), param: None, code: None }
    }

    /// A field that makes no sense.
    pub(crate) fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            param: Some(shortened(param.into(), PARAM)),
            code: Some("invalid_value"),
            ..Self::new(StatusCode::BAD_REQUEST, message)
        }
    }

    /// A field that means something which this server does not do.
    pub(crate) fn unsupported(param: &str, what: &str) -> Self {
        let message = format!("'{param}': {what} not supported by this server; leave it out");
        Self { code: Some("unsupported_parameter"), ..Self::field(param, message) }
    }

    pub(crate) fn status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    pub(crate) fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    pub(crate) fn busy(message: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message).code("overloaded")
    }

    /// The server is told to go.
    pub(crate) fn going() -> Self {
        Self::busy("the server is shutting down")
    }

    /// OpenAI's error object.
    pub(crate) fn body(&self) -> Value {
        let kind = match self.status {
            StatusCode::SERVICE_UNAVAILABLE => "service_unavailable_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        response.extensions_mut().insert(Reason(self.message));
        let headers = response.headers_mut();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<sol_engine::Error> for Refused {
    fn from(error: sol_engine::Error) -> Self {
        Self::from(&error)
    }
}

impl From<sol_text::Error> for Refused {
    fn from(error: sol_text::Error) -> Self {
        Self::from(sol_engine::Error::from(error))
    }
}

impl From<&sol_engine::Error> for Refused {
    fn from(error: &sol_engine::Error) -> Self {
        use sol_engine::Error as E;
        let message = error.to_string();
        match error {
            E::PromptTooLong { bytes, sample, tokens, context } => Self::new(
                StatusCode::BAD_REQUEST,
                format!(
                    "the prompt of {bytes} bytes is much too long: its first {sample} have {tokens} tokens already, but the context \
                     holds {context}"
                ),
            )
            .code("context_length_exceeded"),
            E::ContextOverflow { .. } | E::CacheFull { .. } => {
                Self::new(StatusCode::BAD_REQUEST, message).code("context_length_exceeded")
            }
            E::EmptyPrompt
            | E::UnknownToken { .. }
            | E::BadOption { .. }
            | E::Grammar { .. }
            | E::NoChatTemplate
            | E::NoTokenizer { .. }
            | E::Text(_) => Self::new(StatusCode::BAD_REQUEST, message).code("invalid_value"),
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, message),
        }
    }
}
