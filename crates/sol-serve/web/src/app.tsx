// The page: the list of conversations, the one that is shown, and the box to write in.

import { useEffect, useRef } from "preact/hooks";
import { stop } from "./ask";
import { Composer, focusComposer } from "./composer";
import { Icon } from "./icons";
import { Key } from "./key";
import { Answer, Question } from "./message";
import { Settings } from "./settings";
import { Sidebar } from "./sidebar";
import {
  announcement, connect, current, dark, dialog, kept, list, model, models, narrow, running, set, show, shown, switchTheme, toast, trouble,
} from "./state";

function Header() {
  const theme = dark.value ? "Light colours" : "Dark colours";
  const several = models.value.length > 1;
  return (
    <header>
      {!list.value && (
        <button type="button" class="quiet" aria-label="Show conversations" title="Show conversations" aria-expanded={false}
          onClick={() => (list.value = true)}>
          <Icon name="menu" />
        </button>
      )}
      {several ? (
        <select class="model" aria-label="Model" value={model.value?.id} onChange={(event) => set({ model: event.currentTarget.value })}>
          {models.value.map((one) => <option key={one.id} value={one.id}>{one.id}</option>)}
        </select>
      ) : (
        <span class="model" title={model.value?.id}>{model.value?.id}</span>
      )}
      <span class="space" />
      {!list.value && (
        <button type="button" class="quiet" aria-label="New chat" title="New chat" onClick={() => { show(undefined); focusComposer(); }}>
          <Icon name="new" />
        </button>
      )}
      <button type="button" class="quiet" aria-label={theme} title={theme} onClick={switchTheme}>
        <Icon name={dark.value ? "sun" : "moon"} />
      </button>
      <button type="button" class="quiet" aria-label="Settings" title="Settings" onClick={() => (dialog.value = "settings")}>
        <Icon name="settings" />
      </button>
    </header>
  );
}

/** What stands above everything: no server, no room. */
function Notices() {
  const full = {
    kept: "",
    full: "The browser's storage for this page is full: what is new here will be gone when the page is closed. Delete conversations to make room.",
    off: "This browser keeps nothing for this page: conversations will be gone when it is closed.",
  }[kept.value];
  return (
    <>
      {trouble.value && (
        <div class="notice" role="alert">
          <Icon name="warning" />
          <p><strong>{trouble.value.title}.</strong> {trouble.value.detail}</p>
          {trouble.value.kind === "key"
            ? <button type="button" onClick={() => (dialog.value = "key")}>Enter the key</button>
            : <button type="button" onClick={connect}>Try again</button>}
        </div>
      )}
      {full && <div class="notice" role="alert"><Icon name="warning" /><p>{full}</p></div>}
    </>
  );
}

/** The conversation, whose end stays in sight while the reader is there. */
function Log() {
  const box = useRef<HTMLDivElement>(null);
  const end = useRef(true);
  const conversation = shown.value;
  const messages = conversation?.messages ?? [];
  const jump = useRef<HTMLButtonElement>(null);
  const look = () => {
    const { scrollHeight, scrollTop, clientHeight } = box.current!;
    end.current = scrollHeight - scrollTop - clientHeight < 60;
    if (jump.current) jump.current.hidden = end.current;
  };
  const toEnd = () => {
    box.current!.scrollTop = box.current!.scrollHeight;
    look();
  };
  useEffect(() => {
    end.current = true;
  }, [conversation?.id, messages.length]);
  useEffect(() => (end.current ? toEnd() : look()));
  const busy = conversation && running.value.has(conversation.id);
  return (
    <>
      <div class="log" ref={box} onScroll={look} tabIndex={messages.length ? 0 : undefined} role="region" aria-label="Conversation">
        {conversation ? (
          <div class="column">
            <h1 class="hidden">{conversation.title}</h1>
            {messages.map((message, index) =>
              message.role === "user" ? (
                <Question key={index} conversation={conversation} index={index} busy={!!busy} />
              ) : (
                <Answer key={index} conversation={conversation} message={message} last={index === messages.length - 1} busy={!!busy} />
              ),
            )}
          </div>
        ) : (
          <Empty />
        )}
      </div>
      <button type="button" class="jump" ref={jump} hidden aria-label="To the end" title="To the end" onClick={toEnd}>
        <Icon name="down" />
      </button>
    </>
  );
}

function Empty() {
  return (
    <div class="empty">
      <Icon name="sun" />
      <h1>What would you like to know?</h1>
      <p>Conversations stay in this browser.</p>
    </div>
  );
}

function Toast() {
  const said = toast.value;
  useEffect(() => {
    const timer = said && setTimeout(() => (toast.value = undefined), 8000);
    return () => clearTimeout(timer || undefined);
  }, [said]);
  return (
    <div role="status">
      {said && (
        <div class="toast">
          <span>{said.text}</span>
          {said.undo && <button type="button" onClick={() => { said.undo?.(); toast.value = undefined; }}>Undo</button>}
        </div>
      )}
    </div>
  );
}

export function App() {
  useEffect(() => {
    document.title = shown.value ? `${shown.value.title} – Solarium` : "Solarium";
  }, [shown.value?.title]);
  useEffect(() => {
    const escape = (event: KeyboardEvent) => {
      // Dialogs and fields that are being edited take it first.
      if (event.key !== "Escape" || event.defaultPrevented || dialog.value) return;
      if (narrow.value && list.value) list.value = false;
      else if (current.value) stop(current.value);
    };
    addEventListener("keydown", escape);
    return () => removeEventListener("keydown", escape);
  }, []);
  const covered = narrow.value && list.value;
  return (
    <>
      <button type="button" class="skip" onClick={focusComposer}>Skip to the message box</button>
      <div class="page">
        {list.value && <Sidebar />}
        {covered && <div class="cover" onClick={() => (list.value = false)} />}
        <main inert={covered}>
          <Header />
          <Notices />
          <Log />
          <Composer />
        </main>
      </div>
      {dialog.value === "settings" && <Settings />}
      {dialog.value === "key" && <Key />}
      <Toast />
      <div class="hidden" role="status" aria-live="polite">{announcement.value}</div>
    </>
  );
}
