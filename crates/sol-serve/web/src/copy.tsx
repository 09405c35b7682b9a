// A button that copies.

import { useEffect, useState } from "preact/hooks";
import { Icon } from "./icons";

/** Puts a text into the clipboard; the old way where a page that came without TLS may not use the new one. */
async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    const focused = document.activeElement as HTMLElement | null;
    area.value = text;
    area.className = "hidden";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return done;
  }
}

export function Copy({ text, label }: { text: () => string; label: string }) {
  const [said, say] = useState("");
  useEffect(() => {
    const timer = said && setTimeout(() => say(""), 2000);
    return () => clearTimeout(timer || undefined);
  }, [said]);
  return (
    <button
      type="button"
      class="quiet"
      aria-label={said || label}
      title={label}
      onClick={async () => say((await copy(text())) ? "Copied" : "Not copied")}
    >
      <Icon name={said === "Copied" ? "check" : "copy"} />
      {said && <span aria-hidden="true">{said}</span>}
    </button>
  );
}
