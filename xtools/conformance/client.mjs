// Runs the official `openai` Node package against a server and checks that it gets what it expects.
//
//     npm ci && node client.mjs http://127.0.0.1:8000/v1 [KEY]
//
// The exit code is the number of checks that failed.

import assert from "node:assert/strict";
import OpenAI from "openai";

const [baseURL, apiKey = "none"] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 60_000 });
const messages = [{ role: "user", content: "Name three colours of the rainbow." }];
const model = (await client.models.list()).data[0].id;
const chat = (more) => client.chat.completions.create({ model, messages, max_completion_tokens: 24, temperature: 0, ...more });
const respond = (more) => client.responses.create({ model, input: messages, max_output_tokens: 24, temperature: 0, ...more });
const refused = (kind, param) => (error) => {
  assert(error instanceof kind, `${error.constructor.name}: ${error.message}`);
  assert(error.message.length > 10 && error.type);
  if (param) assert.equal(error.param, param);
  return true;
};

const checks = {
  async models() {
    const found = await client.models.retrieve(model);
    assert.equal(found.object, "model");
    await assert.rejects(client.models.retrieve("none"), refused(OpenAI.NotFoundError, "model"));
  },

  async chat() {
    const answer = await chat();
    assert.equal(answer.object, "chat.completion");
    assert.equal(answer.choices[0].message.role, "assistant");
    assert(answer.choices[0].message.content.length > 0);
    const usage = answer.usage;
    assert.equal(usage.prompt_tokens + usage.completion_tokens, usage.total_tokens);
    assert(usage.prompt_tokens_details.cached_tokens >= 0);
  },

  async chatStream() {
    const whole = await chat();
    const stream = await chat({ stream: true, stream_options: { include_usage: true } });
    let text = "", usage, finish;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      finish = chunk.choices[0]?.finish_reason ?? finish;
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, whole.choices[0].message.content);
    assert.equal(finish, whole.choices[0].finish_reason);
    assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
    const runner = client.chat.completions.stream({ model, messages, max_completion_tokens: 24, temperature: 0 });
    assert.equal(await runner.finalContent(), text);
  },

  async completions() {
    const answer = await client.completions.create({ model, prompt: "Once upon", max_tokens: 8, temperature: 0, echo: true, logprobs: 2 });
    const { text, logprobs } = answer.choices[0];
    assert(text.startsWith("Once upon"));
    assert.equal(logprobs.tokens.length, answer.usage.total_tokens);
    assert.equal(logprobs.token_logprobs[0], null);
    let streamed = "";
    const stream = await client.completions.create({ model, prompt: "Once upon", max_tokens: 8, temperature: 0, echo: true, stream: true });
    for await (const chunk of stream) streamed += chunk.choices[0]?.text ?? "";
    assert.equal(streamed, text);
  },

  async responses() {
    const answer = await respond();
    assert.equal(answer.object, "response");
    assert(answer.output_text.length > 0 && ["completed", "incomplete"].includes(answer.status));
    assert.equal(answer.usage.input_tokens + answer.usage.output_tokens, answer.usage.total_tokens);
    const kinds = [];
    let text = "", last, sequence = 0;
    for await (const event of await respond({ stream: true })) {
      assert.equal(event.sequence_number, sequence++);
      if (kinds.at(-1) !== event.type) kinds.push(event.type);
      if (event.type === "response.output_text.delta") text += event.delta;
      last = event;
    }
    assert.equal(text, answer.output_text);
    assert.equal(last.type, `response.${answer.status}`);
    assert.deepEqual(last.response.usage.output_tokens, answer.usage.output_tokens);
    assert.deepEqual(kinds.slice(0, -1), [
      "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
      "response.output_text.delta", "response.output_text.done", "response.content_part.done", "response.output_item.done",
    ]);
    await assert.rejects(respond({ previous_response_id: "resp_1" }), refused(OpenAI.BadRequestError, "previous_response_id"));
  },

  async embeddings() {
    const ask = (more) => client.embeddings.create({ model, input: ["The river.", "The bridge."], ...more });
    const [packed, plain] = [await ask(), await ask({ encoding_format: "float" })];
    assert.equal(packed.data.length, 2);
    for (const [i, { embedding }] of packed.data.entries()) {
      assert.deepEqual([...embedding], plain.data[i].embedding.map(Math.fround));
      assert(Math.abs(embedding.reduce((sum, x) => sum + x * x, 0) - 1) < 1e-5);
    }
    await assert.rejects(ask({ dimensions: 8 }), refused(OpenAI.BadRequestError, "dimensions"));
  },

  async errors() {
    await assert.rejects(chat({ model: "none" }), refused(OpenAI.NotFoundError, "model"));
    await assert.rejects(chat({ temperature: "hot" }), refused(OpenAI.BadRequestError, "temperature"));
    await assert.rejects(chat({ max_completion_tokens: 0 }), refused(OpenAI.BadRequestError, "max_completion_tokens"));
    await assert.rejects(chat({ messages: [] }), refused(OpenAI.BadRequestError, "messages"));
    if (apiKey !== "none") {
      const stranger = new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 });
      await assert.rejects(stranger.models.list(), refused(OpenAI.AuthenticationError));
    }
  },

  async gone() {
    for (let i = 0; i < 5; i++) {
      const stream = await chat({ stream: true, max_completion_tokens: 400, ignore_eos: true });
      for await (const _ of stream) break;
      stream.controller.abort();
    }
    const aborted = new AbortController();
    setTimeout(() => aborted.abort(), 20);
    const long = { model, messages, n: 64, ignore_eos: true };
    await assert.rejects(client.chat.completions.create(long, { signal: aborted.signal }), OpenAI.APIUserAbortError);
    for (let tries = 0; ; tries++) {
      const { loads: [load] } = await client.get("/loads");
      if (load.num_total_reqs === 0) break;
      assert(tries < 200, `still ${load.num_total_reqs} requests`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  },
};

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok      ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}: ${error.stack}`);
  }
}
process.exit(failed);
