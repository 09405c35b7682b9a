// A question, which can be edited, and an answer, which can be asked for again.

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { again, resend } from "./ask";
import { fit, returnFocus } from "./composer";
import { Copy } from "./copy";
import { Icon } from "./icons";
import { Markdown } from "./markdown";
import type { Conversation, Figures, Message } from "./storage";

export function Question({ conversation, index, busy }: { conversation: Conversation; index: number; busy: boolean }) {
  const { text } = conversation.messages[index]!;
  const [draft, edit] = useState<string>();
  const area = useRef<HTMLTextAreaElement>(null);
  const pencil = useRef<HTMLButtonElement>(null);
  const editing = draft !== undefined;
  useLayoutEffect(() => fit(area.current), [draft]);
  useLayoutEffect(() => area.current?.focus(), [editing]);
  const close = () => {
    edit(undefined);
    setTimeout(() => pencil.current?.focus());
  };
  const submit = () => {
    if (busy || !draft?.trim()) return;
    edit(undefined);
    returnFocus();
    void resend(conversation, index, draft);
  };
  if (editing) {
    return (
      <form class="question editing" onSubmit={(event) => { event.preventDefault(); submit(); }}>
        <textarea
          ref={area}
          value={draft}
          aria-label="Edit the message"
          onInput={(event) => edit(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === "Escape") {
              event.preventDefault();
              close();
            } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
              event.preventDefault();
              submit();
            }
          }}
        />
        <div class="choices">
          <button type="button" onClick={close}>Cancel</button>
          <button type="submit" class="main" disabled={busy || !draft.trim()}>Send</button>
        </div>
      </form>
    );
  }
  return (
    <article class="question" aria-label="You">
      <h2 class="hidden">You</h2>
      <div class="bubble">{text}</div>
      <div class="actions">
        <Copy text={() => text} label="Copy the message" />
        <button type="button" class="quiet" ref={pencil} disabled={busy} aria-label="Edit the message" title="Edit" onClick={() => edit(text)}>
          <Icon name="edit" />
        </button>
      </div>
    </article>
  );
}

interface Of {
  conversation: Conversation;
  message: Message;
  last: boolean;
  busy: boolean;
}

export function Answer({ conversation, message, last, busy }: Of) {
  const runs = message.state === "running";
  return (
    <article class="answer" aria-label="Answer" aria-busy={runs}>
      <h2 class="hidden">Answer</h2>
      {message.text && <Markdown text={message.text} />}
      {runs && <div class="waiting" aria-hidden="true"><i /><i /><i /></div>}
      {message.state === "stopped" && <p class="stopped">Stopped{message.text ? "" : " before it began"}.</p>}
      {message.trouble && (
        <div class="trouble">
          <Icon name="warning" />
          <p><strong>{message.trouble.title}.</strong> {message.trouble.detail}</p>
        </div>
      )}
      <div class="actions">
        {!runs && message.text && <Copy text={() => message.text} label="Copy the answer" />}
        {!runs && last && (
          <button type="button" class="quiet" disabled={busy} aria-label="Answer again" title="Answer again" onClick={() => { void again(conversation); returnFocus(); }}>
            <Icon name="retry" />
          </button>
        )}
        {message.figures && <Speed figures={message.figures} />}
      </div>
    </article>
  );
}

function Speed({ figures }: { figures: Figures }) {
  const { tokens, counted, rate, first, prompt, cached } = figures;
  const more = [
    first !== undefined && `first token after ${first.toFixed(2)} s`,
    prompt !== undefined && `prompt of ${prompt.toLocaleString("en")} tokens${cached ? `, ${cached.toLocaleString("en")} of them known` : ""}`,
    counted && "counted by the page",
  ];
  return (
    <span class="speed" title={more.filter(Boolean).join("; ")}>
      {counted ? "about " : ""}{tokens.toLocaleString("en")} {tokens === 1 ? "token" : "tokens"}
      {rate !== undefined && ` · ${rate < 100 ? rate.toFixed(1) : rate.toFixed(0)} tokens/s`}
    </span>
  );
}
