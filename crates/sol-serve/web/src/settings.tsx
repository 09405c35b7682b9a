// How answers are made: a system prompt where the model has one, and the choice of tokens.

import { useState } from "preact/hooks";
import { key } from "./api";
import { Dialog } from "./dialog";
import { dialog, model, set, settings, type Settings as Values } from "./state";

interface Field {
  name: "temperature" | "top_p" | "top_k" | "min_p" | "repetition_penalty" | "max_tokens" | "seed";
  label: string;
  hint: string;
  min: number;
  max: number;
  step: number;
}

// The ranges are the server's.
const FIELDS: Field[] = [
  { name: "temperature", label: "Temperature", hint: "0 always takes the likeliest token; more is livelier", min: 0, max: 2, step: 0.05 },
  { name: "top_p", label: "Top p", hint: "only the likeliest tokens that have this share together", min: 0, max: 1, step: 0.01 },
  { name: "top_k", label: "Top k", hint: "only so many of the likeliest; 0 is all", min: 0, max: 1000000, step: 1 },
  { name: "min_p", label: "Min p", hint: "only tokens this likely beside the likeliest", min: 0, max: 1, step: 0.01 },
  { name: "repetition_penalty", label: "Repetition penalty", hint: "above 1, what was said becomes less likely", min: 0.01, max: 100, step: 0.01 },
  { name: "max_tokens", label: "Longest answer", hint: "in tokens", min: 1, max: 10000000, step: 1 },
  { name: "seed", label: "Seed", hint: "the same seed gives the same answer", min: 0, max: 9007199254740991, step: 1 },
];

export function Settings() {
  const values = settings.value;
  const [cleared, clear] = useState(0);
  const changed = FIELDS.some((field) => values[field.name] !== undefined);
  return (
    <Dialog title="Settings">
      {model.value?.system && (
        <label>
          System prompt
          <textarea rows={3} value={values.system ?? ""} placeholder="What the model should know or be, in every conversation"
            onInput={(event) => set({ system: event.currentTarget.value || undefined })} />
        </label>
      )}
      <p class="note">An empty field leaves the choice to the model's authors.</p>
      <div class="fields" key={cleared}>
        {FIELDS.map((field) => <NumberField key={field.name} field={field} value={values[field.name]} />)}
      </div>
      <div class="choices">
        {key() && <button type="button" onClick={() => (dialog.value = "key")}>API key</button>}
        <button
          type="button"
          disabled={!changed}
          onClick={() => {
            set(Object.fromEntries(FIELDS.map((field) => [field.name, undefined])));
            clear(cleared + 1);
          }}
        >
          Clear all
        </button>
      </div>
    </Dialog>
  );
}

function NumberField({ field, value }: { field: Field; value: number | undefined }) {
  const { name, label, hint, min, max, step } = field;
  return (
    <label>
      {label}
      <input
        type="number"
        name={name}
        inputMode={step < 1 ? "decimal" : "numeric"}
        {...{ min, max, step }}
        defaultValue={value}
        placeholder="default"
        aria-describedby={`${name}-hint`}
        onInput={(event) => {
          const { valueAsNumber: given, validity } = event.currentTarget;
          // What the server would refuse is not kept; the browser marks it.
          const wrong = isNaN(given) || validity.rangeOverflow || validity.rangeUnderflow || (step === 1 && given % 1 !== 0);
          set({ [name]: wrong ? undefined : given } as Partial<Values>);
        }}
      />
      <small id={`${name}-hint`}>{hint}</small>
    </label>
  );
}
