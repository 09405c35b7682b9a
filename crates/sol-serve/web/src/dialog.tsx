// A window over the page, which the browser keeps the focus in and Esc closes.

import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { Icon } from "./icons";
import { dialog } from "./state";

export const close = () => (dialog.value = undefined);

export function Dialog({ title, children }: { title: string; children: ComponentChildren }) {
  const box = useRef<HTMLDialogElement>(null);
  // Before the browser draws: a key that comes right behind the click is meant for it.
  useLayoutEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    box.current!.showModal();
    return () => before?.focus();
  }, []);
  return (
    <dialog ref={box} aria-labelledby="dialog" onClose={close} onClick={(event) => { if (event.target === box.current) close(); }}>
      <div class="inside">
        <div class="top">
          <h2 id="dialog">{title}</h2>
          <button type="button" class="quiet" aria-label="Close" title="Close" onClick={close}><Icon name="close" /></button>
        </div>
        {children}
      </div>
    </dialog>
  );
}
