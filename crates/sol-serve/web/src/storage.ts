// What the browser keeps: one entry a conversation, one for the settings. Nothing of it leaves the browser but the conversation
// that is asked about.

/** How an answer ended. */
export type State = "running" | "done" | "stopped" | "failed";

export interface Figures {
  /** Tokens of the answer; counted pieces where the server did not say. */
  tokens: number;
  counted: boolean;
  /** Tokens a second after the first. */
  rate?: number;
  /** Seconds to the first. */
  first?: number;
  prompt?: number;
  cached?: number;
}

export interface Message {
  role: "user" | "assistant";
  text: string;
  state?: State;
  /** Why it is not whole, or not there. */
  trouble?: { title: string; detail: string };
  figures?: Figures;
}

export interface Conversation {
  id: string;
  title: string;
  changed: number;
  messages: Message[];
}

const CHAT = "sol.chat.";

/** Whether a write was kept, or why not. */
export type Kept = "kept" | "full" | "off";

export function write(name: string, value: unknown): Kept {
  try {
    localStorage.setItem(name, JSON.stringify(value));
    return "kept";
  } catch (error) {
    return error instanceof DOMException && error.name === "QuotaExceededError" ? "full" : "off";
  }
}

export function read(name: string): unknown {
  try {
    return JSON.parse(localStorage.getItem(name) ?? "null");
  } catch {
    return null;
  }
}

export function remove(name: string) {
  try {
    localStorage.removeItem(name);
  } catch {
    // Then it was never kept.
  }
}

export const save = (conversation: Conversation): Kept => write(CHAT + conversation.id, conversation);
export const forget = (id: string) => remove(CHAT + id);

/** A conversation whose running answer is given up: whoever made it is gone. */
export function settled(conversation: Conversation): Conversation {
  const settle = (message: Message): Message => (message.state === "running" ? { ...message, state: "stopped" } : message);
  return { ...conversation, messages: conversation.messages.map(settle) };
}

/** A conversation as it was kept; nothing of what makes no sense. */
function conversation(value: unknown): Conversation | undefined {
  const given = value as Conversation | null;
  if (typeof given?.id !== "string" || typeof given.title !== "string" || !Array.isArray(given.messages)) return undefined;
  const sound = (message: Message) =>
    (message?.role === "user" || message?.role === "assistant") && typeof message.text === "string";
  return settled({ ...given, changed: Number(given.changed) || 0, messages: given.messages.filter(sound) });
}

/** All of them, the latest first. */
export function load(): Conversation[] {
  let names: string[] = [];
  try {
    names = Object.keys(localStorage).filter((name) => name.startsWith(CHAT));
  } catch {
    // Storage is switched off.
  }
  const all = names.map((name) => conversation(read(name))).filter((one) => one !== undefined);
  return all.sort((a, b) => b.changed - a.changed);
}

/** Tells of what other tabs do: a conversation that changed, or the id of one that is gone. */
export function others(tell: (id: string, now: Conversation | undefined) => void) {
  addEventListener("storage", (event) => {
    if (!event.key?.startsWith(CHAT)) return;
    tell(event.key.slice(CHAT.length), conversation(event.newValue ? read(event.key) : null));
  });
}
