//! `GET /openapi.json`: every route, what it takes and what it answers.
//!
//! `requests` and `answers` describe bodies in types of their own: what reads bodies is more lenient (it takes what clients of all
//! kinds send), and answers are written as JSON. That both say the same is tested: of requests in `tests`, field by field, of
//! answers and streams in `tests/server/openapi.rs`, and in `xtools/conformance` with schemathesis against a server.

mod answers;
mod requests;
#[cfg(test)]
mod tests;

use std::sync::{Arc, LazyLock};

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn, PathItem, Paths};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, Content, InfoBuilder, ObjectBuilder, OpenApi, OpenApiBuilder, Ref, Required, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::App;

/// Statuses of refusals that any route may give, and those of routes that take a body.
const ANY: [(u16, &str); 3] =
    [(401, "no or a wrong key"), (403, "a Host that is not this machine"), (500, "an error of the server")];
const WITH_BODY: [(u16, &str); 6] = [
    (400, "a field is wrong"),
    (404, "no such model"),
    (408, "the body did not come in time"),
    (413, "the body is too large"),
    (415, "the body is not application/json"),
    (503, "the server is full or going; come again"),
];

/// The document being built.
struct Document {
    paths: Paths,
    schemas: Vec<(String, utoipa::openapi::RefOr<utoipa::openapi::Schema>)>,
}

impl Document {
    /// A reference to a type's schema, which the document gets.
    fn schema<T: ToSchema>(&mut self) -> Content {
        self.schemas.push((T::name().into(), T::schema()));
        T::schemas(&mut self.schemas);
        Content::new(Some(Ref::from_schema_name(T::name())))
    }

    /// The same of a stream's events, and of the chunks in them.
    fn events<E: ToSchema, C: ToSchema>(&mut self) -> Content {
        self.schema::<C>();
        self.schema::<E>()
    }

    fn operation(&mut self, name: &str, summary: &str, extra: &[(u16, &str)], answer: ResponseBuilder) -> OperationBuilder {
        let error = self.schema::<answers::ErrorAnswer>();
        let operation = OperationBuilder::new().operation_id(Some(name)).summary(Some(summary)).response("200", answer);
        ANY.iter().chain(extra).fold(operation, |operation, (status, why)| {
            let refusal = ResponseBuilder::new().description(*why).content("application/json", error.clone());
            operation.response(status.to_string(), refusal)
        })
    }

    fn add(&mut self, method: HttpMethod, path: &str, operation: impl Into<Operation>) {
        self.paths.paths.insert(path.into(), PathItem::new(method, operation));
    }

    fn get<A: ToSchema>(&mut self, path: &str, name: &str, summary: &str, extra: &[(u16, &str)]) {
        let answer = self.schema::<A>();
        let answer = ResponseBuilder::new().description(summary).content("application/json", answer);
        let operation = self.operation(name, summary, extra, answer);
        // Paths that need no key: see `server::OPEN`.
        let open = crate::server::OPEN.contains(&path);
        self.add(HttpMethod::Get, path, if open { operation.securities(Some([])) } else { operation });
    }

    fn post<R: ToSchema, A: ToSchema>(&mut self, path: &str, name: &str, summary: &str, event: Option<Content>) {
        let answer = self.schema::<A>();
        let mut answer = ResponseBuilder::new().description("the answer").content("application/json", answer);
        if let Some(event) = event {
            answer = answer.content("text/event-stream", event);
        }
        let body = self.schema::<R>();
        let body = RequestBodyBuilder::new().content("application/json", body).required(Some(Required::True)).build();
        let operation = self.operation(name, summary, &WITH_BODY, answer).request_body(Some(body));
        self.add(HttpMethod::Post, path, operation);
    }

    fn all() -> Self {
        use answers as a;
        use requests as r;
        let mut all = Self { paths: Paths::new(), schemas: Vec::new() };
        let event = Some(all.events::<a::ChatEvent, a::ChatChunk>());
        all.post::<r::ChatRequest, a::ChatCompletion>("/v1/chat/completions", "chat", "Answers a conversation", event);
        let event = Some(all.events::<a::CompletionEvent, a::Completion>());
        all.post::<r::CompletionRequest, a::Completion>("/v1/completions", "complete", "Continues texts", event);
        let event = Some(all.events::<a::ResponseEvent, a::ResponseChunk>());
        all.post::<r::ResponseRequest, a::ResponseAnswer>("/v1/responses", "respond", "Answers a text or a conversation", event);
        let summary = "The mean of the last layer's hidden states of each text, after the final norm, scaled to length 1";
        all.post::<r::EmbeddingRequest, a::EmbeddingList>("/v1/embeddings", "embed", summary, None);
        all.post::<r::TokenizeRequest, a::Tokens>("/tokenize", "tokenize", "Text or a conversation to tokens", None);
        all.post::<r::DetokenizeRequest, a::Detokenized>("/detokenize", "detokenize", "Tokens to text", None);
        all.get::<a::ModelList>("/v1/models", "models", "The models", &[]);
        all.get::<a::Status>("/health", "health", "Whether the server lives", &[]);
        all.get::<a::Status>("/ready", "ready", "Whether it takes requests", &[(503, "it is going")]);
        all.get::<a::Version>("/version", "version", "Its version", &[]);
        for (path, name) in [("/model_info", "model_info"), ("/get_model_info", "get_model_info")] {
            all.get::<a::ModelInfo>(path, name, "What the model is, for gateways", &[]);
        }
        for (path, name) in [("/server_info", "server_info"), ("/get_server_info", "get_server_info")] {
            all.get::<a::ServerInfo>(path, name, "What the server is, for gateways", &[]);
        }
        for (path, name) in [("/v1/loads", "loads"), ("/loads", "loads_without_version")] {
            all.get::<a::Loads>(path, name, "How busy it is, for gateways", &[]);
        }
        let name = ParameterBuilder::new().name("model").parameter_in(ParameterIn::Path).required(Required::True);
        let name = name.schema(Some(ObjectBuilder::new().schema_type(Type::String)));
        let card = all.schema::<a::ModelCard>();
        let card = ResponseBuilder::new().description("the model").content("application/json", card);
        let model = all.operation("model", "One model", &[(404, "no such model")], card).parameter(name);
        all.add(HttpMethod::Get, "/v1/models/{model}", model);
        let text = ResponseBuilder::new()
            .description("Prometheus' text format")
            .content("text/plain", Content::new(Some(String::schema())));
        let metrics = all.operation("metrics", "Figures for Prometheus", &[], text);
        all.add(HttpMethod::Get, "/metrics", metrics);
        let itself = ObjectBuilder::new().schema_type(Type::Object);
        let itself = ResponseBuilder::new().description("OpenAPI 3.1").content("application/json", Content::new(Some(itself)));
        let itself = all.operation("openapi", "This document", &[], itself);
        all.add(HttpMethod::Get, "/openapi.json", itself);
        all
    }
}

fn document() -> OpenApi {
    let Document { paths, schemas } = Document::all();
    let mut components = Components::new();
    components.schemas.extend(schemas);
    components.add_security_scheme("key", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    let info = InfoBuilder::new().title("Solarium").version(env!("CARGO_PKG_VERSION"));
    let info = info.description(Some("OpenAI's API for models on one's own machine.")).build();
    OpenApiBuilder::new().info(info).paths(paths).components(Some(components)).build()
}

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::to_value(document()).unwrap_or_default());

/// The document; it asks for a key where the server does.
pub(crate) async fn openapi(State(app): State<Arc<App>>) -> Json<Value> {
    let mut document = DOCUMENT.clone();
    if app.api_key.is_some() {
        document["security"] = json!([SecurityRequirement::new("key", Vec::<String>::new())]);
    }
    Json(document)
}
