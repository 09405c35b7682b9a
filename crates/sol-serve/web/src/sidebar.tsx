// The list of conversations.

import { useRef, useState } from "preact/hooks";
import { focusComposer } from "./composer";
import { Icon } from "./icons";
import { change, conversations, current, discard, list, running, show } from "./state";
import type { Conversation } from "./storage";

export function Sidebar() {
  return (
    <aside aria-label="Conversations">
      <div class="top">
        <span class="brand"><Icon name="sun" />Solarium</span>
        <button type="button" class="quiet" aria-label="Hide conversations" title="Hide conversations" aria-expanded={true}
          onClick={() => (list.value = false)}>
          <Icon name="close" />
        </button>
      </div>
      <button type="button" class="fresh" onClick={() => { show(undefined); focusComposer(); }}>
        <Icon name="new" />New chat
      </button>
      <nav aria-label="Conversations">
        <ul>
          {conversations.value.map((one) => <Entry key={one.id} conversation={one} />)}
        </ul>
      </nav>
    </aside>
  );
}

function Entry({ conversation }: { conversation: Conversation }) {
  const [naming, name] = useState(false);
  const link = useRef<HTMLAnchorElement>(null);
  const { id, title } = conversation;
  const here = id === current.value;
  const done = (title: string | undefined) => {
    if (title?.trim()) change(id, { title: title.trim() });
    name(false);
    setTimeout(() => link.current?.focus());
  };
  if (naming) {
    return (
      <li>
        <input
          class="name"
          value={title}
          maxLength={100}
          aria-label="Name of the conversation"
          ref={(input) => { if (input && document.activeElement !== input) input.select(); }}
          onBlur={(event) => { if (naming) done(event.currentTarget.value); }}
          onKeyDown={(event) => {
            if (event.key !== "Enter" && event.key !== "Escape") return;
            event.preventDefault();
            done(event.key === "Enter" ? event.currentTarget.value : undefined);
          }}
        />
      </li>
    );
  }
  return (
    <li class={here ? "here" : ""}>
      <a ref={link} href={`#/${id}`} aria-current={here ? "page" : undefined} title={title}
        onClick={(event) => { event.preventDefault(); show(id); }}>
        {running.value.has(id) && <span class="dot" role="img" aria-label="Being answered" />}
        {title}
      </a>
      <span class="tools">
        <button type="button" class="quiet" aria-label={`Save “${title}” as a file`} title="Save as a file" onClick={() => download(conversation)}>
          <Icon name="export" />
        </button>
        <button type="button" class="quiet" aria-label={`Rename “${title}”`} title="Rename" onClick={() => name(true)}>
          <Icon name="edit" />
        </button>
        <button type="button" class="quiet" aria-label={`Delete “${title}”`} title="Delete" onClick={() => { discard(conversation); focusComposer(); }}>
          <Icon name="delete" />
        </button>
      </span>
    </li>
  );
}

/** Gives a conversation as Markdown. */
function download({ title, messages }: Conversation) {
  const turns = messages.map(({ role, text }) => `## ${role === "user" ? "Question" : "Answer"}\n\n${text}\n`);
  const url = URL.createObjectURL(new Blob([`# ${title}\n\n${turns.join("\n")}`], { type: "text/markdown" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = `${title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60) || "chat"}.md`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
