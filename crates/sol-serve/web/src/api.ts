// The server: which models it has, and answers as they come. Whatever goes wrong becomes a `Failure` in words.

/** A model of `/v1/models`; what is undefined is not known before it is in the server's memory. */
export interface Model {
  id: string;
  /** Tokens of a conversation with its answer. */
  context?: number;
  /** Whether a system message reaches it. */
  system?: boolean;
}

export interface Turn {
  role: "system" | "user" | "assistant";
  content: string;
}

/** Tokens of a request. */
export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  prompt_tokens_details?: { cached_tokens?: number };
}

/** Fields of a request that say how to choose tokens; what is not there is as the model's authors ask for. */
export interface Sampling {
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  repetition_penalty?: number;
  max_tokens?: number;
  seed?: number;
}

/** What becomes of an answer. */
export type Piece = { text: string } | { finish: string } | { usage: Usage };

/** What went wrong, and what to do. */
export class Failure extends Error {
  constructor(
    readonly title: string,
    readonly detail: string,
    readonly kind: "key" | "model" | "other" = "other",
  ) {
    super(title);
  }
}

const KEY = "sol.key";

export function key(): string {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

/** Keeps the key in this tab until it is closed. */
export function setKey(value: string) {
  try {
    sessionStorage.setItem(KEY, value);
  } catch {
    throw new Failure("The key can not be kept", "This browser keeps nothing for this page; allow it to.", "key");
  }
}

function failure(status: number, text: string): Failure {
  let error: { message?: unknown; code?: unknown } = {};
  try {
    error = JSON.parse(text).error ?? {};
  } catch {
    // Not this server's words: those of something in between.
  }
  const said = typeof error.message === "string" ? sentence(error.message) : `It answered with status ${status}.`;
  if (status === 401) return new Failure("The server wants an API key", "Whoever runs it can tell it to you.", "key");
  if (error.code === "context_length_exceeded") {
    return new Failure("The conversation is too long for the model", `${said} Start a new chat, or edit an earlier message.`);
  }
  if (status === 503 || status === 429) return new Failure("The server is busy", `${said} Try again in a moment.`);
  if (status === 404) return new Failure("The server does not have this", said, "model");
  return new Failure(status >= 500 ? "The server failed" : "The server refused the question", said);
}

function sentence(text: string): string {
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(begun) ? begun : `${begun}.`;
}

async function call(path: string, init: RequestInit): Promise<Response> {
  const headers = new Headers(init.headers);
  if (key()) headers.set("authorization", `Bearer ${key()}`);
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new Failure("The server can not be reached", "Is it still running? What you wrote is kept; try again when it is back.");
  }
  if (!response.ok) throw failure(response.status, await response.text().catch(() => ""));
  return response;
}

/** The models that can be asked. */
export async function models(): Promise<Model[]> {
  const response = await call("v1/models", {});
  const list = (await response.json().catch(() => ({}))).data;
  if (!Array.isArray(list) || !list.length) throw new Failure("The server has no model", "Its list of models is empty.");
  return list.map((card) => ({
    id: String(card.id),
    context: Number.isFinite(card.max_model_len) ? card.max_model_len : undefined,
    system: typeof card.system_prompt === "boolean" ? card.system_prompt : undefined,
  }));
}

/** Has a model brought into the server's memory, as every request does. */
export async function load(model: string, signal: AbortSignal) {
  const headers = { "content-type": "application/json" };
  await call("tokenize", { method: "POST", headers, body: JSON.stringify({ model, prompt: "" }), signal });
}

/** The data of server-sent events. */
export async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  let rest = "";
  let data: string[] = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop() ?? "";
      for (const whole of lines) {
        const line = whole.endsWith("\r") ? whole.slice(0, -1) : whole;
        if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        } else if (!line && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } finally {
    // The server sees that nobody listens any more.
    reader.cancel().catch(() => {});
  }
}

/** Asks for the next turn; ends when it is whole, and fails where the stream breaks off before. */
export async function* answer(
  model: string,
  messages: Turn[],
  sampling: Sampling,
  signal: AbortSignal,
): AsyncGenerator<Piece> {
  const body = { model, messages, ...sampling, stream: true, stream_options: { include_usage: true } };
  const headers = { "content-type": "application/json" };
  const response = await call("v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal });
  const broken = new Failure("The connection broke off", "The answer is not whole. Is the server still running?");
  if (!response.body) throw broken;
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Failure("The server failed in the middle", sentence(String(chunk.error.message)));
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) yield { text: String(choice.delta.content) };
      if (choice?.finish_reason) yield { finish: String(choice.finish_reason) };
      if (chunk.usage) yield { usage: chunk.usage };
    }
  } catch (error) {
    if (signal.aborted || error instanceof Failure) throw error;
    throw broken;
  }
  if (!signal.aborted) throw broken;
}
