// The box to write in, and how much of the context is used.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { send, stop } from "./ask";
import { Icon } from "./icons";
import { current, model, running, shown } from "./state";

/** What was begun and not sent, by conversation. */
const drafts = new Map<string | undefined, string>();

export function focusComposer() {
  document.querySelector<HTMLTextAreaElement>("#message")?.focus();
}

/** Where the focus goes when what had it is gone; not where a keyboard would then cover half of the screen. */
export function returnFocus() {
  if (!matchMedia("(pointer: coarse)").matches) focusComposer();
}

/** Makes a text field as high as its text, within what the style sheet allows. */
export function fit(area: HTMLTextAreaElement | null) {
  if (!area) return;
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + 2}px`;
}

export function Composer() {
  const id = current.value;
  const [text, type] = useState("");
  const area = useRef<HTMLTextAreaElement>(null);
  useEffect(() => type(drafts.get(id) ?? ""), [id]);
  useLayoutEffect(() => fit(area.current), [text]);
  useEffect(returnFocus, [id]);

  const busy = id !== undefined && running.value.has(id);
  const ready = !busy && model.value !== undefined && text.trim() !== "";
  const write = (text: string) => {
    drafts.set(id, text);
    type(text);
  };
  const go = () => {
    if (!ready) return;
    write("");
    void send(text);
  };
  return (
    <form class="composer" onSubmit={(event) => { event.preventDefault(); go(); }}>
      <div class="box">
        <textarea
          id="message"
          ref={area}
          rows={1}
          value={text}
          placeholder="Ask something"
          aria-label="Message"
          aria-describedby="keys"
          enterkeyhint="send"
          onInput={(event) => write(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
            event.preventDefault();
            go();
          }}
        />
        {busy ? (
          <button type="button" class="round" aria-label="Stop" title="Stop (Esc)" onClick={() => { stop(id); returnFocus(); }}>
            <Icon name="stop" />
          </button>
        ) : (
          <button type="submit" class="round" aria-label="Send" title="Send (Enter)" disabled={!ready}>
            <Icon name="send" />
          </button>
        )}
      </div>
      <div class="under">
        <span id="keys">Enter sends, Shift+Enter is a new line{busy ? ", Esc stops" : ""}</span>
        <Context />
      </div>
    </form>
  );
}

/** Tokens of the conversation, of those that the model holds. */
function Context() {
  const context = model.value?.context;
  if (!context) return null;
  const figures = shown.value?.messages.findLast((message) => message.figures?.prompt !== undefined)?.figures;
  const used = figures?.prompt === undefined ? 0 : figures.prompt + figures.tokens;
  const text = `Context ${used.toLocaleString("en")} of ${context.toLocaleString("en")}`;
  return (
    <span class="context" title="Tokens of this conversation, of those that the model holds">
      <meter min={0} max={context} high={context * 0.9} optimum={0} value={used} aria-label="Context used" />
      {text}
    </span>
  );
}
