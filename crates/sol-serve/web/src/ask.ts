// Questions and what becomes of them.

import * as api from "./api";
import { announcement, begin, change, changeLast, connect, conversations, current, dialog, model, models, running, settings, show } from "./state";
import type { Conversation, Figures, Message, State } from "./storage";

/** Milliseconds between two drawings of an answer, at least, and between two writings. */
const DRAW = 40;
const KEEP = 1000;
/** Longest answer that is read out. */
const READ_OUT = 2000;

const find = (id: string | undefined) => conversations.value.find((one) => one.id === id);

/** Sends a message in the conversation that is shown, or begins one. */
export function send(text: string) {
  const conversation = find(current.value);
  if (!conversation) {
    const id = begin(text);
    show(id);
    current.value = id;
    return ask(id);
  }
  change(conversation.id, { messages: [...conversation.messages, { role: "user", text }] });
  return ask(conversation.id);
}

/** Says something else in place of message `index`, and forgets what came after it. */
export function resend(conversation: Conversation, index: number, text: string) {
  change(conversation.id, { messages: [...conversation.messages.slice(0, index), { role: "user", text }] });
  return ask(conversation.id);
}

/** Asks for the last answer again. */
export function again(conversation: Conversation) {
  const last = conversation.messages.at(-1);
  if (last?.role === "assistant") change(conversation.id, { messages: conversation.messages.slice(0, -1) });
  return ask(conversation.id);
}

export function stop(id: string) {
  running.value.get(id)?.abort();
}

/** The turns of a conversation: without answers that never came, whose questions then are one with the next. */
function turns(messages: Message[], system: string): api.Turn[] {
  const turns: api.Turn[] = system ? [{ role: "system", content: system }] : [];
  for (const { role, text } of messages) {
    const last = turns.at(-1);
    if (role === "assistant" && !text) continue;
    if (last?.role === role) last.content += `\n\n${text}`;
    else turns.push({ role, content: text });
  }
  return turns;
}

function sampling(): api.Sampling {
  const { model: _model, system: _system, ...rest } = settings.value;
  return rest;
}

/** Times of an answer. */
class Clock {
  private readonly begun = performance.now();
  private first?: number;
  private last = 0;
  private pieces = 0;

  piece() {
    this.last = performance.now();
    this.first ??= this.last;
    this.pieces += 1;
  }

  figures(usage?: api.Usage): Figures {
    const tokens = usage?.completion_tokens ?? this.pieces;
    const seconds = this.first === undefined ? 0 : (this.last - this.first) / 1000;
    return {
      tokens,
      counted: !usage,
      rate: tokens > 1 && seconds > 0.05 ? (tokens - 1) / seconds : undefined,
      first: this.first === undefined ? undefined : (this.first - this.begun) / 1000,
      prompt: usage?.prompt_tokens,
      cached: usage?.prompt_tokens_details?.cached_tokens,
    };
  }
}

/** Asks for the next turn of a conversation and writes it down as it comes. */
async function ask(id: string) {
  const conversation = find(id);
  if (!conversation || running.value.has(id)) return;
  const asked = model.value?.id ?? "";
  const known = () => models.value.find((one) => one.id === asked);
  const system = String(settings.value.system ?? "").trim();
  const controller = new AbortController();
  running.value = new Map(running.value).set(id, controller);
  change(id, { changed: Date.now(), messages: [...conversation.messages, { role: "assistant", text: "", state: "running" }] });
  announcement.value = "Answering";

  const clock = new Clock();
  let [text, finish, drawing, kept] = ["", "", 0, performance.now()];
  let usage: api.Usage | undefined;
  let state: State = "done";
  let trouble: Message["trouble"];
  // Drawing a long answer takes a while: then it is drawn less often, and the page stays at hand.
  const draw = () => {
    const start = performance.now();
    const keep = start - kept > KEEP;
    if (keep) kept = start;
    changeLast(id, { text, figures: clock.figures() }, keep);
    requestAnimationFrame(() => setTimeout(() => (slow = performance.now() - start)));
    drawing = 0;
  };
  let slow = 0;
  try {
    // Whether it takes a system prompt is known once it is in memory.
    if (system && known() && known()?.system === undefined) {
      await api.load(asked, controller.signal);
      await connect();
    }
    const messages = turns(conversation.messages, known()?.system ? system : "");
    for await (const piece of api.answer(asked, messages, sampling(), controller.signal)) {
      if ("usage" in piece) usage = piece.usage;
      else if ("finish" in piece) finish = piece.finish;
      else {
        clock.piece();
        text += piece.text;
        drawing ||= window.setTimeout(draw, Math.max(DRAW, 2 * slow));
      }
    }
    if (controller.signal.aborted) state = "stopped";
  } catch (error) {
    if (controller.signal.aborted) {
      state = "stopped";
    } else {
      state = "failed";
      trouble =
        error instanceof api.Failure
          ? { title: error.title, detail: error.detail }
          : { title: "The page made a mistake", detail: String(error) };
      const kind = error instanceof api.Failure && error.kind;
      if (kind === "key") dialog.value = "key";
      // It has others than when the page was loaded.
      if (kind === "model") void connect();
    }
  }
  clearTimeout(drawing);
  if (state === "done" && finish === "length") trouble = cut(usage);
  const rest = new Map(running.value);
  rest.delete(id);
  running.value = rest;
  changeLast(id, { text, state, trouble, figures: text || usage ? clock.figures(usage) : undefined }, true);
  announcement.value = said(state, text, trouble);
  // The model is in memory now.
  if (state !== "failed" && known()?.context === undefined) void connect();
}

/** Why an answer ended before its end. */
function cut(usage: api.Usage | undefined): Message["trouble"] {
  const context = model.value?.context;
  const used = usage ? usage.prompt_tokens + usage.completion_tokens : 0;
  const limit = settings.value.max_tokens;
  if (usage && limit && usage.completion_tokens >= limit) {
    return { title: "The answer was cut off", detail: `It may have ${limit} tokens; the settings say so.` };
  }
  if (context && used >= context - 1) {
    const detail = `The model holds ${context.toLocaleString("en")} tokens of a conversation. Start a new chat, or edit an earlier message.`;
    return { title: "The context is full", detail };
  }
  return { title: "The answer was cut off", detail: "It reached a limit of the server." };
}

function said(state: State, text: string, trouble: Message["trouble"]): string {
  if (state === "stopped") return "Stopped";
  if (state === "failed") return `${trouble?.title}. ${trouble?.detail}`;
  const answer = text.length > READ_OUT ? `${text.slice(0, READ_OUT)}… The rest is in the conversation.` : text;
  return `Answer: ${answer} ${trouble ? `${trouble.title}.` : ""}`;
}
