// What the page shows. Values are replaced, never changed in place; whoever reads a signal is drawn anew.

import { computed, effect, signal } from "@preact/signals";
import * as api from "./api";
import * as storage from "./storage";
import type { Conversation, Message } from "./storage";

export interface Settings extends api.Sampling {
  model?: string;
  system?: string;
}

export const conversations = signal<Conversation[]>(storage.load());
/** The conversation that is shown; none is a new one. */
export const current = signal<string | undefined>(undefined);
export const shown = computed(() => conversations.value.find((one) => one.id === current.value));
/** What is being answered. */
export const running = signal<ReadonlyMap<string, AbortController>>(new Map());

export const models = signal<api.Model[]>([]);
/** Why there are none. */
export const trouble = signal<api.Failure | undefined>(undefined);
export const settings = signal<Settings>((storage.read("sol.settings") as Settings | null) ?? {});
/** The model that is asked: the one that was chosen while the server has it. */
export const model = computed(() => models.value.find((one) => one.id === settings.value.model) ?? models.value[0]);

/** Whether changes are kept. */
export const kept = signal<storage.Kept>("kept");
/** A word in passing, and how to take back what it tells of. */
export const toast = signal<{ text: string; undo?: () => void } | undefined>(undefined);
/** For screen readers. */
export const announcement = signal("");
export const dialog = signal<"settings" | "key" | undefined>(undefined);
/** Whether the list of conversations is open; on narrow screens it lies over the page. */
export const list = signal(matchMedia("(min-width: 900px)").matches);

const NARROW = matchMedia("(max-width: 899px)");
export const narrow = signal(NARROW.matches);
NARROW.addEventListener("change", () => {
  narrow.value = NARROW.matches;
  list.value = !NARROW.matches;
});

const DARK = matchMedia("(prefers-color-scheme: dark)");
const system = signal(DARK.matches);
DARK.addEventListener("change", () => (system.value = DARK.matches));
const chosen = signal(storage.read("sol.theme"));
export const dark = computed(() => (chosen.value ? chosen.value === "dark" : system.value));
effect(() => {
  document.documentElement.dataset.theme = dark.value ? "dark" : "light";
});

/** Light to dark and back; back to what the system wants is no choice to keep. */
export function switchTheme() {
  const wanted = !dark.value;
  chosen.value = wanted === system.value ? null : wanted ? "dark" : "light";
  if (chosen.value) storage.write("sol.theme", chosen.value);
  else storage.remove("sol.theme");
}

export function set(change: Partial<Settings>) {
  settings.value = { ...settings.value, ...change };
  storage.write("sol.settings", settings.value);
}

/** Asks the server what it has. */
export async function connect() {
  try {
    models.value = await api.models();
    trouble.value = undefined;
  } catch (error) {
    if (!(error instanceof api.Failure)) throw error;
    trouble.value = error;
    if (error.kind === "key") dialog.value = "key";
  }
}

function replace(conversation: Conversation) {
  const rest = conversations.value.filter((one) => one.id !== conversation.id);
  conversations.value = [conversation, ...rest].sort((a, b) => b.changed - a.changed);
}

/** Changes a conversation; `keep` writes it down. */
export function change(id: string, how: Partial<Conversation>, keep = true) {
  const before = conversations.value.find((one) => one.id === id);
  if (!before) return;
  const after = { ...before, ...how };
  replace(after);
  if (keep) kept.value = storage.save(after);
}

/** Changes the last message of a conversation. */
export function changeLast(id: string, how: Partial<Message>, keep: boolean) {
  const messages = conversations.value.find((one) => one.id === id)?.messages;
  const last = messages?.at(-1);
  if (messages && last) change(id, { messages: [...messages.slice(0, -1), { ...last, ...how }] }, keep);
}

/** A conversation that begins with this; its id. */
export function begin(text: string): string {
  const id = Array.from(crypto.getRandomValues(new Uint32Array(3)), (n) => n.toString(36)).join("");
  const line = text.trim().replace(/\s+/g, " ");
  const title = line.length > 60 ? `${line.slice(0, 59).trimEnd()}…` : line;
  const conversation: Conversation = { id, title, changed: Date.now(), messages: [{ role: "user", text }] };
  replace(conversation);
  kept.value = storage.save(conversation);
  return id;
}

export function discard(conversation: Conversation) {
  running.value.get(conversation.id)?.abort();
  conversations.value = conversations.value.filter((one) => one.id !== conversation.id);
  storage.forget(conversation.id);
  kept.value = "kept";
  const was = current.value === conversation.id;
  if (was) show(undefined);
  toast.value = {
    text: `Deleted “${conversation.title}”`,
    undo: () => {
      const back = storage.settled(conversation);
      replace(back);
      kept.value = storage.save(back);
      if (was) show(conversation.id);
    },
  };
}

/** Shows a conversation, or an empty one. The address says which, so that it is found again and the browser's keys go back. */
export function show(id: string | undefined) {
  if (narrow.value) list.value = false;
  if (id !== current.value) location.hash = id ? `/${id}` : "/";
}

function follow() {
  const id = location.hash.replace(/^#\/?/, "");
  current.value = conversations.value.some((one) => one.id === id) ? id : undefined;
}
follow();
addEventListener("hashchange", follow);

// What is being answered when the page goes is kept as far as it came; that its connection breaks off then is no failure.
addEventListener("pagehide", () => {
  for (const one of conversations.value) if (running.value.has(one.id)) storage.save(one);
  for (const controller of running.value.values()) controller.abort();
});

storage.others((id, now) => {
  if (running.value.has(id)) return;
  conversations.value = conversations.value.filter((one) => one.id !== id);
  if (now) replace(now);
  else if (current.value === id) show(undefined);
});
