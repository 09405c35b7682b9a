// Where a server's API key is asked for.

import { useState } from "preact/hooks";
import { Failure, key, setKey } from "./api";
import { close, Dialog } from "./dialog";
import { connect, dialog, trouble } from "./state";

export function Key() {
  const [value, type] = useState(key());
  const [wrong, say] = useState("");
  const submit = async (event: Event) => {
    event.preventDefault();
    try {
      setKey(value.trim());
    } catch (error) {
      return say(error instanceof Failure ? error.detail : String(error));
    }
    await connect();
    if (trouble.value?.kind === "key") say("The server does not know this key.");
    else if (dialog.value === "key") close();
  };
  return (
    <Dialog title="API key">
      <form onSubmit={submit}>
        <p>This server answers whoever has its key. It is kept in this tab until the tab is closed, and sent to this server only.</p>
        <label>
          Key
          <input type="password" name="key" autocomplete="current-password" required value={value} aria-describedby="wrong"
            onInput={(event) => type(event.currentTarget.value)} />
        </label>
        <p id="wrong" class="wrong" role="alert">{wrong}</p>
        <div class="choices">
          <button type="button" onClick={close}>Cancel</button>
          <button type="submit" class="main">Use it</button>
        </div>
      </form>
    </Dialog>
  );
}
