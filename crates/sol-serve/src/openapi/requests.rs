//! Bodies that clients send. Fields that are not here are ignored, or refused by name where they would change the answer.
#![expect(dead_code, reason = "they describe; what reads bodies is beside the endpoints")]

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// What chat, plain completions and responses share.
#[derive(Serialize, ToSchema)]
pub(super) struct Shared {
    /// Default: the server's first model.
    model: Option<String>,
    /// 0 takes the likeliest token. Default: as the model's authors ask for.
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    /// 0 and -1: no limit.
    #[schema(minimum = -1)]
    top_k: Option<i64>,
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f64>,
    #[schema(minimum = 0.01, maximum = 100)]
    repetition_penalty: Option<f64>,
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f64>,
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f64>,
    /// By token id.
    logit_bias: Option<BTreeMap<String, f64>>,
    seed: Option<i64>,
    /// Texts that end the answer.
    stop: Option<Stop>,
    /// Go on after tokens that end a turn.
    ignore_eos: Option<bool>,
    /// Server-sent events instead of one object.
    stream: Option<bool>,
    user: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Stops),
}

#[derive(Serialize, ToSchema)]
#[schema(max_items = 64)]
struct Stops(Vec<String>);

/// What chat and plain completions share.
#[derive(Serialize, ToSchema)]
pub(super) struct Choices {
    /// Answers to each prompt.
    #[schema(minimum = 1, maximum = 128)]
    n: Option<i64>,
    /// Only with `stream`.
    stream_options: Option<StreamOptions>,
    #[serde(flatten)]
    form: Form,
}

/// The form that the answer must have: at most one of these.
#[derive(Serialize, ToSchema)]
struct Form {
    response_format: Option<ResponseFormat>,
    /// A JSON Schema, also as a text.
    guided_json: Option<Value>,
    guided_regex: Option<String>,
    #[schema(min_items = 1)]
    guided_choice: Option<Vec<String>>,
    /// In Lark's language.
    guided_grammar: Option<String>,
    structured_outputs: Option<Guided>,
}

#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ResponseFormat {
    Text,
    JsonObject,
    JsonSchema { json_schema: NamedSchema },
}

#[derive(Serialize, ToSchema)]
struct NamedSchema {
    #[schema(pattern = "^[a-zA-Z0-9_-]{1,64}$")]
    name: String,
    /// A JSON Schema, which is always kept to.
    #[schema(required = true)]
    schema: Value,
}

/// The `guided_` fields in one object.
#[derive(Serialize, ToSchema)]
struct Guided {
    json: Option<Value>,
    regex: Option<String>,
    #[schema(min_items = 1)]
    choice: Option<Vec<String>>,
    grammar: Option<String>,
    json_object: Option<bool>,
}

#[derive(Serialize, ToSchema)]
struct StreamOptions {
    /// A last chunk with the usage.
    include_usage: Option<bool>,
}

/// A conversation to continue.
#[derive(Serialize, ToSchema)]
pub(super) struct ChatRequest {
    #[schema(min_items = 1)]
    messages: Vec<ChatTurn>,
    /// Default: up to the end of the context.
    #[schema(minimum = 1)]
    max_completion_tokens: Option<i64>,
    /// The older name of `max_completion_tokens`.
    #[schema(minimum = 1)]
    max_tokens: Option<i64>,
    logprobs: Option<bool>,
    /// Only with `logprobs`.
    #[schema(minimum = 0, maximum = 20)]
    top_logprobs: Option<i64>,
    #[schema(max_items = 128)]
    tools: Option<Vec<Tool>>,
    /// Default: auto.
    tool_choice: Option<ToolChoice>,
    /// Whether one answer may have several calls. Default: yes.
    parallel_tool_calls: Option<bool>,
    #[serde(flatten)]
    choices: Choices,
    #[serde(flatten)]
    shared: Shared,
}

/// What the model may ask to be called.
#[derive(Serialize, ToSchema)]
struct Tool {
    r#type: FunctionKind,
    function: Function,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum FunctionKind {
    Function,
}

#[derive(Serialize, ToSchema)]
struct Function {
    #[schema(pattern = "^[a-zA-Z0-9_-]{1,64}$")]
    name: String,
    description: Option<String>,
    /// The JSON Schema of its arguments, which is always kept to. Default: it takes none.
    parameters: Option<BTreeMap<String, Value>>,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum ToolChoice {
    Mode(ToolMode),
    Named(NamedTool),
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ToolMode {
    None,
    Auto,
    Required,
}

#[derive(Serialize, ToSchema)]
struct NamedTool {
    r#type: FunctionKind,
    function: ToolName,
}

#[derive(Serialize, ToSchema)]
struct ToolName {
    name: String,
}

#[derive(Serialize, ToSchema)]
#[serde(tag = "role", rename_all = "lowercase")]
enum ChatTurn {
    System {
        content: ChatContent,
    },
    Developer {
        content: ChatContent,
    },
    User {
        content: ChatContent,
    },
    Assistant {
        content: Option<ChatContent>,
        tool_calls: Option<Vec<PastCall>>,
    },
    /// What came of a call.
    Tool {
        content: ChatContent,
        tool_call_id: String,
    },
}

/// A call as an answer had it.
#[derive(Serialize, ToSchema)]
struct PastCall {
    id: String,
    r#type: Option<FunctionKind>,
    function: Called,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Called {
    name: String,
    /// A JSON object as text.
    arguments: String,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum ChatContent {
    Text(String),
    Parts(Vec<ChatPart>),
}

#[derive(Serialize, ToSchema)]
struct ChatPart {
    r#type: ChatPartKind,
    text: String,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ChatPartKind {
    Text,
}

/// Texts to continue.
#[derive(Serialize, ToSchema)]
pub(super) struct CompletionRequest {
    prompt: Texts,
    /// Default: 16. 0 only with `echo`.
    #[schema(minimum = 0)]
    max_tokens: Option<i64>,
    /// The prompt in front of the answer.
    echo: Option<bool>,
    #[schema(minimum = 0, maximum = 20)]
    logprobs: Option<i64>,
    /// Whether a text gets the tokens that the model's configuration puts in front. Default: yes.
    add_special_tokens: Option<bool>,
    /// Only as many as `n`.
    #[schema(minimum = 1)]
    best_of: Option<i64>,
    #[serde(flatten)]
    choices: Choices,
    #[serde(flatten)]
    shared: Shared,
}

/// A text, texts, tokens, or lists of tokens.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(TextList),
    Tokens(TokenList),
    ManyTokens(TokenLists),
}

#[derive(Serialize, ToSchema)]
#[schema(min_items = 1)]
struct TextList(Vec<String>);

#[derive(Serialize, ToSchema)]
#[schema(min_items = 1)]
struct TokenList(Vec<u32>);

#[derive(Serialize, ToSchema)]
#[schema(min_items = 1)]
struct TokenLists(Vec<TokenList>);

/// A text or a conversation to answer.
#[derive(Serialize, ToSchema)]
pub(super) struct ResponseRequest {
    input: ResponseInput,
    /// A system message in front of the input.
    instructions: Option<String>,
    #[schema(minimum = 1)]
    max_output_tokens: Option<i64>,
    metadata: Option<BTreeMap<String, String>>,
    text: Option<ResponseText>,
    /// Accepted; nothing is kept.
    store: Option<bool>,
    #[serde(flatten)]
    shared: Shared,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum ResponseInput {
    Text(String),
    Items(ResponseItems),
}

#[derive(Serialize, ToSchema)]
#[schema(min_items = 1)]
struct ResponseItems(Vec<ResponseItem>);

#[derive(Serialize, ToSchema)]
struct ResponseItem {
    r#type: Option<ItemKind>,
    role: ItemRole,
    content: ResponseContent,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ItemKind {
    Message,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ItemRole {
    System,
    Developer,
    User,
    Assistant,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum ResponseContent {
    Text(String),
    Parts(Vec<ResponsePart>),
}

#[derive(Serialize, ToSchema)]
struct ResponsePart {
    r#type: ResponsePartKind,
    text: String,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ResponsePartKind {
    InputText,
    OutputText,
    Text,
}

#[derive(Serialize, ToSchema)]
struct ResponseText {
    format: Option<TextFormat>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct TextFormat {
    r#type: ChatPartKind,
}

/// Texts to embed.
#[derive(Serialize, ToSchema)]
pub(super) struct EmbeddingRequest {
    model: Option<String>,
    input: Texts,
    encoding_format: Option<Encoding>,
    user: Option<String>,
    /// As in plain completions.
    add_special_tokens: Option<bool>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    Float,
    Base64,
}

/// Either `prompt` or `messages`.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenizeRequest {
    model: Option<String>,
    prompt: Option<String>,
    #[schema(min_items = 1)]
    messages: Option<Vec<ChatTurn>>,
    add_special_tokens: Option<bool>,
    return_token_strs: Option<bool>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct DetokenizeRequest {
    model: Option<String>,
    tokens: Vec<u32>,
}
