//! What the server answers. A field that may be null is always there.
#![expect(dead_code, reason = "they describe; what writes answers is beside the endpoints")]

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::requests::{Called, TextFormat};

/// OpenAI's error object, with every status that is not 200.
#[derive(Serialize, ToSchema)]
pub(super) struct ErrorAnswer {
    error: ErrorBody,
}

#[derive(Serialize, ToSchema)]
struct ErrorBody {
    message: String,
    r#type: String,
    /// The field that is wrong.
    #[schema(required = true)]
    param: Option<String>,
    #[schema(required = true)]
    code: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct ModelCard {
    id: String,
    object: String,
    created: u64,
    owned_by: String,
    /// Which model it is: the first of its names.
    root: String,
    #[schema(required = true)]
    parent: Option<String>,
    /// Whether it is in memory. If not, it is loaded when it is asked, and null stands for what is known only then.
    loaded: bool,
    /// Tokens of the context.
    #[schema(required = true)]
    max_model_len: Option<u64>,
    /// Whether its template has a place for a system message.
    #[schema(required = true)]
    system_prompt: Option<bool>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct ModelList {
    object: String,
    data: Vec<ModelCard>,
}

#[derive(Serialize, ToSchema)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: CachedTokens,
}

#[derive(Serialize, ToSchema)]
struct CachedTokens {
    cached_tokens: u64,
}

#[derive(Serialize, ToSchema)]
pub(super) struct ChatCompletion {
    id: String,
    object: String,
    created: u64,
    model: String,
    choices: Vec<ChatChoice>,
    usage: Usage,
}

#[derive(Serialize, ToSchema)]
struct ChatChoice {
    index: u64,
    message: ChatMessage,
    #[schema(required = true)]
    logprobs: Option<ChatLogprobs>,
    finish_reason: ChatFinish,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ChatFinish {
    Stop,
    Length,
    ToolCalls,
}

#[derive(Serialize, ToSchema)]
struct ChatMessage {
    role: String,
    #[schema(required = true)]
    content: Option<String>,
    #[schema(required = true)]
    refusal: Option<String>,
    /// Only where there are some.
    tool_calls: Option<Vec<ToolCall>>,
}

#[derive(Serialize, ToSchema)]
struct ToolCall {
    id: String,
    r#type: String,
    function: Called,
}

#[derive(Serialize, ToSchema)]
struct ChatLogprobs {
    content: Vec<ChatLogprob>,
    #[schema(required = true)]
    refusal: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct ChatLogprob {
    token: String,
    logprob: f64,
    bytes: Vec<u8>,
    top_logprobs: Vec<TopLogprob>,
}

#[derive(Serialize, ToSchema)]
struct TopLogprob {
    token: String,
    logprob: f64,
    bytes: Vec<u8>,
}

/// One event of a stream.
#[derive(Serialize, ToSchema)]
pub(super) struct ChatEvent {
    /// A `ChatChunk` as JSON; the last is `[DONE]`.
    data: String,
}

/// One event of a stream.
#[derive(Serialize, ToSchema)]
pub(super) struct CompletionEvent {
    /// A `Completion` as JSON; the last is `[DONE]`.
    data: String,
}

/// One event of a stream.
#[derive(Serialize, ToSchema)]
pub(super) struct ResponseEvent {
    /// The chunk's `type`.
    event: String,
    /// A `ResponseChunk` as JSON.
    data: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct ChatChunk {
    id: String,
    object: String,
    created: u64,
    model: String,
    choices: Vec<ChatDelta>,
    usage: Option<Usage>,
}

#[derive(Serialize, ToSchema)]
struct ChatDelta {
    index: u64,
    delta: Delta,
    #[schema(required = true)]
    logprobs: Option<ChatLogprobs>,
    #[schema(required = true)]
    finish_reason: Option<ChatFinish>,
}

#[derive(Serialize, ToSchema)]
struct Delta {
    role: Option<String>,
    content: Option<String>,
    tool_calls: Option<Vec<CallDelta>>,
}

/// A call: its first delta has its name, those after it more of its arguments.
#[derive(Serialize, ToSchema)]
struct CallDelta {
    index: u64,
    id: Option<String>,
    r#type: Option<String>,
    function: CalledDelta,
}

#[derive(Serialize, ToSchema)]
struct CalledDelta {
    name: Option<String>,
    arguments: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Completion {
    id: String,
    object: String,
    created: u64,
    model: String,
    choices: Vec<CompletionChoice>,
    /// Of a stream: in its last chunk, where it is asked for.
    usage: Option<Usage>,
}

#[derive(Serialize, ToSchema)]
struct CompletionChoice {
    index: u64,
    text: String,
    #[schema(required = true)]
    logprobs: Option<CompletionLogprobs>,
    /// Null where more comes.
    #[schema(required = true)]
    finish_reason: Option<Finish>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Finish {
    Stop,
    Length,
}

#[derive(Serialize, ToSchema)]
struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f64>>,
    top_logprobs: Vec<Option<BTreeMap<String, f64>>>,
    text_offset: Vec<u64>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct ResponseAnswer {
    id: String,
    object: String,
    created_at: u64,
    status: ResponseStatus,
    #[schema(required = true)]
    incomplete_details: Option<Incomplete>,
    #[schema(required = true)]
    instructions: Option<String>,
    #[schema(required = true)]
    max_output_tokens: Option<u64>,
    model: String,
    output: Vec<ResponseMessage>,
    temperature: f64,
    top_p: f64,
    #[schema(required = true)]
    usage: Option<ResponseUsage>,
    #[schema(required = true)]
    user: Option<String>,
    metadata: BTreeMap<String, String>,
    #[serde(flatten)]
    fixed: Fixed,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ResponseStatus {
    InProgress,
    Completed,
    Incomplete,
}

/// What is the same in every response, there for clients that look for it.
#[derive(Serialize, ToSchema)]
struct Fixed {
    background: bool,
    #[schema(required = true)]
    error: Option<String>,
    parallel_tool_calls: bool,
    #[schema(required = true)]
    previous_response_id: Option<String>,
    reasoning: Reasoning,
    store: bool,
    text: TextOptions,
    tool_choice: String,
    tools: Vec<String>,
    truncation: String,
}

#[derive(Serialize, ToSchema)]
struct Reasoning {
    #[schema(required = true)]
    effort: Option<String>,
    #[schema(required = true)]
    summary: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct TextOptions {
    format: TextFormat,
}

#[derive(Serialize, ToSchema)]
struct Incomplete {
    reason: String,
}

#[derive(Serialize, ToSchema)]
struct ResponseMessage {
    id: String,
    r#type: String,
    status: ResponseStatus,
    role: String,
    content: Vec<OutputText>,
}

#[derive(Serialize, ToSchema)]
struct OutputText {
    r#type: String,
    text: String,
    /// Always empty, as are the log-probabilities.
    annotations: Vec<String>,
    logprobs: Vec<String>,
}

#[derive(Serialize, ToSchema)]
struct ResponseUsage {
    input_tokens: u64,
    input_tokens_details: CachedTokens,
    output_tokens: u64,
    output_tokens_details: ReasoningTokens,
    total_tokens: u64,
}

#[derive(Serialize, ToSchema)]
struct ReasoningTokens {
    reasoning_tokens: u64,
}

/// The fields that it has are those of its type.
#[derive(Serialize, ToSchema)]
pub(super) struct ResponseChunk {
    /// `response.completed`, `response.incomplete` or `error` is the last.
    r#type: String,
    sequence_number: u64,
    /// Of `response.created`, `response.in_progress` and the last.
    response: Option<ResponseAnswer>,
    /// Of `response.output_item.` events.
    item: Option<ResponseMessage>,
    output_index: Option<u64>,
    /// Of what is about the text, with what follows up to its log-probabilities.
    item_id: Option<String>,
    content_index: Option<u64>,
    /// Of `response.content_part.` events.
    part: Option<OutputText>,
    /// Of `response.output_text.delta`: more of the text.
    delta: Option<String>,
    /// Of `response.output_text.done`: all of it.
    text: Option<String>,
    logprobs: Option<Vec<String>>,
    /// Of `error`.
    message: Option<String>,
    code: Option<String>,
    param: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct EmbeddingList {
    object: String,
    data: Vec<Embedding>,
    model: String,
    usage: EmbeddingUsage,
}

#[derive(Serialize, ToSchema)]
struct Embedding {
    object: String,
    index: u64,
    embedding: Values,
}

/// Numbers, or base64 of little-endian 32-bit floats; of length 1.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Values {
    Float(Vec<f32>),
    Base64(String),
}

#[derive(Serialize, ToSchema)]
struct EmbeddingUsage {
    prompt_tokens: u64,
    total_tokens: u64,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Tokens {
    count: u64,
    max_model_len: u64,
    tokens: Vec<u32>,
    #[schema(required = true)]
    token_strs: Option<Vec<String>>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Detokenized {
    prompt: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Status {
    status: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Version {
    version: String,
}

/// Null stands for what is not known before the model is in memory.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelInfo {
    model_path: String,
    served_model_name: String,
    is_generation: bool,
    #[schema(required = true)]
    max_context_length: Option<u64>,
    #[schema(required = true)]
    max_model_len: Option<u64>,
    #[schema(required = true)]
    vocab_size: Option<u64>,
    #[schema(required = true)]
    architectures: Option<Vec<String>>,
    #[schema(required = true)]
    model_type: Option<String>,
}

/// Null stands for what is not known before the model is in memory.
#[derive(Serialize, ToSchema)]
pub(super) struct ServerInfo {
    version: String,
    model_path: String,
    served_model_name: String,
    #[schema(required = true)]
    max_model_len: Option<u64>,
    #[schema(required = true)]
    context_length: Option<u64>,
    #[schema(required = true)]
    max_total_num_tokens: Option<u64>,
    #[schema(required = true)]
    max_running_requests: Option<u64>,
    page_size: u64,
    tp_size: u64,
    dp_size: u64,
    status: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Loads {
    version: String,
    dp_rank_count: u64,
    loads: Vec<Load>,
    aggregate: LoadSum,
}

#[derive(Serialize, ToSchema)]
struct Load {
    dp_rank: u64,
    num_running_reqs: u64,
    num_waiting_reqs: u64,
    num_total_reqs: u64,
    num_used_tokens: u64,
    max_total_num_tokens: u64,
    max_running_requests: u64,
    /// Share of the KV cache that running requests hold.
    token_usage: f64,
    /// Share of prompts' tokens that were cached.
    cache_hit_rate: f64,
}

#[derive(Serialize, ToSchema)]
struct LoadSum {
    total_running_reqs: u64,
    total_waiting_reqs: u64,
    total_reqs: u64,
    avg_token_usage: f64,
}
