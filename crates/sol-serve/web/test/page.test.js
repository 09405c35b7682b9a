// The chat page in a real browser, on a real server. SOL is the binary, TINY a model that answers and ends, SLOW one that talks until
// it is stopped.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import axe from "axe-core";
import { answered, ask, launch, open, says, serve, settings, shot, stream } from "./stage.js";

// Without vectors: an answer of 2,048 tokens is still being written when it is looked at.
const SLOWLY = { SOL_ISA: "portable" };

let browser, tiny, slow;
before(async () => {
  [browser, tiny, slow] = await Promise.all([launch(), serve(process.env.TINY), serve(process.env.SLOW, ["--ctx", "2048"], SLOWLY)]);
});
after(() => Promise.all([browser?.close(), tiny?.end(), slow?.end()]));

const CHAT = "v1/chat/completions";

/** What the server is doing. */
async function running(url) {
  return (await (await fetch(`${url}v1/loads`)).json()).loads[0].num_running_reqs;
}

async function until(what) {
  for (let i = 0; i < 300; i++) {
    if (await what()) return;
    await new Promise((done) => setTimeout(done, 50));
  }
  assert.fail(`never: ${what}`);
}

test("ask, stop, again, edit, reload", async () => {
  const { page, context, faults } = await open(browser, slow.url);
  await shot(page, "empty");
  await ask(page, "Tell me a long story.");
  const text = () => page.locator(".answer .markdown").last().innerText();
  // It comes in pieces.
  await page.locator(".answer .markdown").waitFor();
  const first = (await text()).length;
  await until(async () => (await text()).length > first + 20);
  assert.equal(await page.locator(".answer").getAttribute("aria-busy"), "true");
  assert.equal(await running(slow.url), 1);
  // Esc stops it, on the server too.
  await page.keyboard.press("Escape");
  assert.match(await (await answered(page)).innerText(), /Stopped\./);
  await until(async () => (await running(slow.url)) === 0);
  // As does the button.
  await page.getByRole("button", { name: "Answer again" }).click();
  await page.locator('.answer[aria-busy="true"] .markdown').waitFor();
  await page.getByRole("button", { name: "Stop" }).click();
  assert.match(await (await answered(page)).innerText(), /Stopped\./);
  await until(async () => (await running(slow.url)) === 0);

  // Again, no longer than the settings allow, and with its figures.
  await settings(page);
  await page.getByLabel("Longest answer").fill("12");
  await page.getByLabel("Seed").fill("7");
  await page.getByRole("button", { name: "Close" }).click();
  await page.getByRole("button", { name: "Answer again" }).click();
  await page.locator(".trouble", { hasText: "The answer was cut off" }).waitFor();
  assert.equal(await page.locator(".answer").count(), 1);
  assert.match(await page.locator(".speed").innerText(), /^12 tokens · [\d.]+ tokens\/s$/);
  const context1 = Number(/Context ([\d,]+) of 2,048/.exec(await page.locator(".context").innerText())[1].replace(",", ""));
  assert.ok(context1 > 12);

  // A second question, then the first said otherwise: what came after it is gone.
  await ask(page, "And then?");
  await answered(page);
  assert.equal(await page.locator(".question").count(), 2);
  assert.ok(Number(/Context ([\d,]+)/.exec(await page.locator(".context").innerText())[1].replace(",", "")) > context1);
  await page.getByRole("button", { name: "Edit the message" }).first().click();
  await page.getByRole("textbox", { name: "Edit the message" }).fill("Tell me a short story.");
  await page.keyboard.press("Enter");
  await until(async () => (await page.locator(".question").count()) === 1);
  await answered(page);
  const told = await text();
  assert.equal(await page.locator(".bubble").innerText(), "Tell me a short story.");

  // All of it is there when the page is loaded anew, as are the settings.
  await page.reload();
  await page.locator(".answer .markdown").waitFor();
  assert.equal(await text(), told);
  assert.equal(await page.title(), "Tell me a long story. – Solarium");
  assert.equal(await page.evaluate(() => JSON.parse(localStorage.getItem("sol.settings")).max_tokens), 12);
  assert.deepEqual(faults, []);
  await context.close();
});

test("a page that is closed in the middle of an answer keeps what came", async () => {
  const { page, context, faults } = await open(browser, slow.url);
  await ask(page, "Go on and on.");
  await until(async () => (await page.locator(".answer .markdown").count()) && (await page.locator(".answer .markdown").innerText()).length > 20);
  await page.reload();
  await page.locator(".stopped").waitFor();
  assert.ok((await page.locator(".answer .markdown").innerText()).length > 20);
  await until(async () => (await running(slow.url)) === 0);
  assert.deepEqual(faults, []);
  await context.close();
});

test("conversations: several, renamed, deleted and taken back, saved as a file", async () => {
  const { page, context, faults } = await open(browser, tiny.url, { acceptDownloads: true });
  await ask(page, "Describe été.");
  assert.match(await (await answered(page)).innerText(), /an8 wat count: c wereouZone/);
  await page.getByRole("button", { name: "New chat" }).click();
  await ask(page, "Another one");
  await answered(page);
  const names = () => page.locator("nav a").allInnerTexts();
  assert.deepEqual(await names(), ["Another one", "Describe été."]);
  await page.getByRole("button", { name: "Rename “Another one”" }).click();
  await page.getByLabel("Name of the conversation").fill("Second");
  await page.keyboard.press("Enter");
  await page.getByRole("link", { name: "Describe été." }).click();
  await page.getByText("an8 wat count").waitFor();
  const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Save “Describe été.” as a file" }).click()]);
  assert.equal(file.suggestedFilename(), "Describe-été.md");
  await page.getByRole("button", { name: "Delete “Describe été.”" }).click();
  await until(async () => (await names()).join() === "Second");
  await page.getByRole("button", { name: "Undo" }).click();
  await page.getByText("an8 wat count").waitFor();
  // Back is where one was before.
  await page.getByRole("link", { name: "Second" }).click();
  await page.locator(".bubble", { hasText: "Another one" }).waitFor();
  await page.goBack();
  await page.locator(".bubble", { hasText: "Describe été." }).waitFor();
  await page.reload();
  assert.deepEqual((await names()).sort(), ["Describe été.", "Second"]);
  // What another tab does is seen here.
  const other = await context.newPage();
  await other.goto(page.url());
  await other.getByRole("button", { name: "Delete “Describe été.”" }).click();
  await until(async () => (await names()).join() === "Second");
  assert.deepEqual(faults, []);
  await context.close();
});

const HOSTILE = `<script>window.hit = 1</script><img src=x onerror="window.hit = 1"><svg onload="window.hit = 1">

[a](javascript:window.hit=1) [b](JaVaScRiPt:window.hit=1) [c](data:text/html,<script>window.hit=1</script>) [d](vbscript:x)
[e](&#106;avascript:window.hit=1) [f](//evil.example/x) [g](/metrics) [h](blob:http://x) <javascript:window.hit=1>
[good](https://example.com/?a=1&b="onmouseover="x) ![p](https://evil.example/p.png) ![q](x" onerror="window.hit=1)

<iframe src="javascript:window.hit=1"></iframe> <a href="javascript:window.hit=1">x</a> <style>*{display:none}</style>

\`\`\`html" onload="window.hit=1
</code></pre><script>window.hit = 1</script>
\`\`\`

| <img src=x onerror=window.hit=1> | b |
|---|:-:|
| [x](javascript:window.hit=1) | ok |

[ref]: javascript:window.hit=1
[ref] &lt;b&gt; &copy;
`;

test("what a model writes becomes text, whatever it is", async () => {
  const { page, context, faults } = await open(browser, tiny.url, { routes: { [CHAT]: says(HOSTILE) } });
  await ask(page, "<img src=x onerror=window.hit=1>");
  const answer = await answered(page);
  const found = await page.evaluate(() => ({
    hit: window.hit,
    bad: document.querySelectorAll(".log :is(script, img, iframe, style, object, embed, form, input)").length,
    handlers: [...document.querySelectorAll("*")].filter((e) => [...e.attributes].some((a) => /^on/i.test(a.name))).length,
    links: [...document.querySelectorAll(".answer a")].map((a) => [a.innerText, a.href, a.rel]),
  }));
  const rel = "noopener noreferrer nofollow";
  assert.deepEqual(found, {
    hit: undefined,
    bad: 0,
    handlers: 0,
    links: [
      ["good", "https://example.com/?a=1&b=%22onmouseover=%22x", rel],
      ["[image: p]", "https://evil.example/p.png", rel],
    ],
  });
  const text = await answer.innerText();
  for (const part of ["<script>window.hit = 1</script>", "<iframe", "</code></pre>", "<b> ©"]) assert.ok(text.includes(part), part);
  assert.deepEqual(faults, []);
  // The second line of defence holds, and a breach of it would have been seen.
  const tried = await page.evaluate(async () => {
    const refused = () => "refused";
    const markup = new Promise((done) => done(document.body.insertAdjacentHTML("beforeend", "<b>x</b>"))).catch(refused);
    return Promise.all([markup, fetch("https://evil.example/").catch(refused)]);
  });
  assert.deepEqual(tried, ["refused", "refused"]);
  await until(() => faults.some((fault) => /TrustedHTML/.test(fault)) && faults.some((fault) => /evil\.example/.test(fault)));
  await context.close();
});

test("text that is hard to parse does not stop the page", async () => {
  const texts = ["_a".repeat(4000), "[".repeat(8000), ">".repeat(8000), "*a ".repeat(3000), "- ".repeat(3000) + "x", "![a](".repeat(2000)];
  const { page, context, faults } = await open(browser, tiny.url, { routes: { [CHAT]: says(texts.join("\n\n")) } });
  await ask(page, "x");
  await answered(page);
  await settings(page);
  assert.deepEqual(faults, []);
  await context.close();
});

const MARKDOWN = "# Title\n\nA **bold** word, `code`, [a link](https://example.com/).\n\n1. one\n2. two\n\n```python\nprint(1)\n```\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n> said\n\n" +
  "A word that is much too long for a telephone: " + "x".repeat(200) + "\n\n```\n" + "long line ".repeat(40) + "\n```\n";

test("markdown, and copies of it", async () => {
  const { page, context, faults } = await open(browser, tiny.url, {
    routes: { [CHAT]: says(MARKDOWN) },
    permissions: ["clipboard-read", "clipboard-write"],
  });
  await ask(page, "Show me");
  await answered(page);
  for (const part of ["h3", "strong", "ol li", "table td.to-right", "blockquote", "pre code"]) {
    assert.ok(await page.locator(`.answer .markdown ${part}`).count(), part);
  }
  await page.getByRole("button", { name: "Copy the code" }).first().click();
  await page.getByRole("button", { name: "Copied" }).waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), "print(1)");
  await page.getByRole("button", { name: "Copy the answer" }).click();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), MARKDOWN);
  await shot(page, "markdown");
  assert.deepEqual(faults, []);
  await context.close();
});

test("what is asked: the conversation, the settings, the system prompt where there is one", async () => {
  let asked;
  const routes = {
    [CHAT]: (route) => {
      asked = route.request().postDataJSON();
      return says("Fine.")(route);
    },
  };
  const { page, context, faults } = await open(browser, tiny.url, { routes });
  await settings(page);
  await page.getByLabel("System prompt").fill("Be brief.");
  for (const [label, value] of [["Temperature", "0.7"], ["Top p", "0.9"], ["Top k", "40"], ["Min p", "0.05"], ["Repetition penalty", "1.1"], ["Longest answer", "99"], ["Seed", "3"]]) {
    await page.getByLabel(label).fill(value);
  }
  // What the server would refuse is marked and not sent.
  await page.getByLabel("Temperature").fill("9");
  await page.keyboard.press("Escape");
  await ask(page, "One");
  await answered(page);
  await page.getByLabel("Message", { exact: true }).pressSequentially("Two");
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.type("lines");
  await page.keyboard.press("Enter");
  await until(() => asked?.messages.length === 4);
  const { model: name, ...rest } = asked;
  assert.equal(name, (await page.locator("header .model").innerText()).trim());
  assert.deepEqual(rest, {
    messages: [
      { role: "system", content: "Be brief." },
      { role: "user", content: "One" },
      { role: "assistant", content: "Fine." },
      { role: "user", content: "Two\nlines" },
    ],
    top_p: 0.9, top_k: 40, min_p: 0.05, repetition_penalty: 1.1, max_tokens: 99, seed: 3,
    stream: true, stream_options: { include_usage: true },
  });
  await context.close();

  // A model that has none is asked without, and there is a choice where there are several.
  const data = ["a", "b"].map((id) => ({ id, max_model_len: 100, system_prompt: false }));
  const other = await open(browser, tiny.url, {
    init: () => localStorage.setItem("sol.settings", '{"system": "Be brief."}'),
    routes: { ...routes, "v1/models": (route) => route.fulfill({ json: { object: "list", data } }) },
  });
  await other.page.getByLabel("Model").selectOption("b");
  await settings(other.page);
  assert.equal(await other.page.getByLabel("System prompt").count(), 0);
  await other.page.keyboard.press("Escape");
  // Esc right behind the click is for the window, too.
  await other.page.getByRole("button", { name: "Settings" }).click();
  await other.page.keyboard.press("Escape");
  await other.page.getByRole("dialog").waitFor({ state: "detached" });
  await ask(other.page, "One");
  await answered(other.page);
  assert.deepEqual([asked.model, asked.messages], ["b", [{ role: "user", content: "One" }]]);
  assert.deepEqual([...faults, ...other.faults], []);
  await other.context.close();
});

test("a model that comes into memory when it is asked", async () => {
  for (const system of [undefined, "Be brief."]) {
    const server = await serve(process.env.TINY.replace("chat-tiny", "solar-tiny"), ["-m", process.env.TINY]);
    const asked = [];
    const { page, context, faults } = await open(browser, server.url, {
      init: `localStorage.setItem("sol.settings", '${JSON.stringify({ system, model: "chat-tiny" })}')`,
      routes: { [CHAT]: (route) => { asked.push(route.request().postDataJSON()); return route.continue(); } },
    });
    await ask(page, "One");
    await answered(page);
    const first = system ? { role: "system", content: system } : { role: "user", content: "One" };
    assert.deepEqual([asked[0].model, asked[0].messages[0]], ["chat-tiny", first]);
    await page.locator(".context", { hasText: "of 512" }).waitFor();
    await settings(page);
    assert.equal(await page.getByLabel("System prompt").inputValue(), system ?? "");
    assert.deepEqual(faults, []);
    await context.close();
    await server.end();
  }
});

test("a server with a key, and one that is gone", async () => {
  const server = await serve(process.env.TINY, [], { SOL_API_KEY: "secret" });
  try {
    const { page, context, faults } = await open(browser, server.url);
    await page.getByRole("heading", { name: "API key" }).waitFor();
    await page.getByLabel("Key", { exact: true }).fill("wrong");
    await page.keyboard.press("Enter");
    await page.getByText("does not know this key").waitFor();
    await page.getByLabel("Key", { exact: true }).fill("secret");
    await page.getByRole("button", { name: "Use it" }).click();
    await page.getByRole("heading", { name: "API key" }).waitFor({ state: "detached" });
    await ask(page, "Describe été.");
    assert.match(await (await answered(page)).innerText(), /an8 wat/);
    assert.deepEqual(await page.evaluate(() => [sessionStorage["sol.key"], JSON.stringify(localStorage).includes("secret")]), ["secret", false]);

    // Too much for the model: the server's numbers, in words.
    await ask(page, "word ".repeat(600));
    assert.match(await (await answered(page)).innerText(), /too long for the model.*\d+ tokens.*512/s);

    await server.end();
    await ask(page, "Still there?");
    assert.match(await (await answered(page)).innerText(), /can not be reached/);
    await page.reload().catch(() => {});
    assert.deepEqual(faults.filter((fault) => !fault.includes("ERR_CONNECTION")), []);
    await context.close();
  } finally {
    await server.end();
  }
});

test("errors in words", async () => {
  const fail = (status, error) => (route) => route.fulfill({ status, json: { error } });
  const cases = [
    [fail(503, { message: "as many requests wait as may", code: "overloaded" }), /The server is busy\. As many requests wait as may\./],
    [fail(500, { message: "it broke" }), /The server failed\. It broke\./],
    [fail(404, { message: "the model 'x' does not exist", code: "model_not_found" }), /the model 'x' does not exist/i],
    [(route) => route.fulfill({ status: 502, body: "<html>Bad gateway</html>" }), /The server failed\. It answered with status 502/],
    [(route) => route.fulfill({ contentType: "text/event-stream", body: stream("Half an answ").split("data: [DONE]")[0] }), /Half an answ.*broke off/s],
    [(route) => route.fulfill({ contentType: "text/event-stream", body: 'data: {"error": {"message": "out of luck"}}\n\n' }), /in the middle\. Out of luck/],
    [(route) => route.fulfill({ contentType: "text/event-stream", body: "data: nonsense\n\n" }), /broke off/],
  ];
  let now;
  const { page, context, faults } = await open(browser, tiny.url, { routes: { [CHAT]: (route) => now(route) } });
  for (const [how, words] of cases) {
    now = how;
    await ask(page, "Well?");
    assert.match(await (await answered(page)).innerText(), words);
    now = says("There you are.");
    await page.getByRole("button", { name: "Answer again" }).click();
    await page.locator(".answer").last().getByText("There you are.").waitFor();
    await answered(page);
  }
  assert.deepEqual(faults, []);
  await context.close();
});

test("a browser that keeps nothing, and one that is full", async () => {
  for (const [name, words] of [["QuotaExceededError", "storage for this page is full"], ["SecurityError", "keeps nothing for this page"]]) {
    const { page, context, faults } = await open(browser, tiny.url, {
      init: `Storage.prototype.setItem = () => { throw new DOMException("no", "${name}"); };`,
    });
    await ask(page, "Describe été.");
    assert.match(await (await answered(page)).innerText(), /an8 wat/);
    await page.getByText(words).waitFor();
    assert.deepEqual(faults, []);
    await context.close();
  }
  // Whatever lies in the storage, the page comes up.
  const { page, context, faults } = await open(browser, tiny.url, {
    init: () => {
      for (const [i, junk] of ["{", "null", "[]", '{"id":"x"}', '{"id":"y","title":"Odd","messages":[null,{"role":"user","text":"kept"},{"role":"x"}]}'].entries()) {
        localStorage.setItem(`sol.chat.${i}`, junk);
      }
      localStorage.setItem("sol.settings", "17");
    },
  });
  await page.getByRole("link", { name: "Odd" }).click();
  await page.locator(".bubble", { hasText: "kept" }).waitFor();
  assert.deepEqual(faults, []);
  await context.close();
});

test("light and dark, wide and narrow, with nothing that shuts anybody out", async () => {
  for (const colorScheme of ["light", "dark"]) {
    for (const [size, options] of Object.entries({
      desktop: {},
      phone: { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true },
    })) {
      const { page, context, faults } = await open(browser, tiny.url, { colorScheme, ...options, routes: { [CHAT]: says(MARKDOWN) } });
      const check = async (name) => {
        await shot(page, `${name}-${size}-${colorScheme}`);
        await page.evaluate(`${axe.source}; undefined`);
        const { violations } = await page.evaluate(() => axe.run());
        assert.deepEqual(violations.map(({ id, nodes }) => [id, nodes.map((node) => node.html)]), [], `${name} ${size} ${colorScheme}`);
        assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= page.viewportSize().width, "it scrolls sideways");
      };
      await check("empty");
      await ask(page, "Show me");
      await answered(page);
      await check("answer");
      if (size === "phone") {
        await page.getByRole("button", { name: "Show conversations" }).click();
        await check("list");
        await page.keyboard.press("Escape");
        await page.locator("aside").waitFor({ state: "detached" });
      }
      await settings(page);
      await check("settings");
      await page.keyboard.press("Escape");
      // The switch wins over the system, and is remembered.
      const paper = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
      const was = await paper();
      await page.getByRole("button", { name: colorScheme === "light" ? "Dark colours" : "Light colours" }).click();
      assert.notEqual(await paper(), was);
      await page.reload();
      await page.getByLabel("Message", { exact: true }).waitFor();
      assert.notEqual(await paper(), was);
      assert.deepEqual(faults, []);
      await context.close();
    }
  }
});

test("by keyboard alone, and read out once", async () => {
  const { page, context, faults } = await open(browser, tiny.url, { routes: { [CHAT]: says("A short answer.") } });
  // Who writes is in the box at once; the first stop of the page leads back there.
  assert.equal(await page.evaluate(() => document.activeElement?.id), "message");
  await page.evaluate(() => document.querySelector("a, button, input, select, textarea").focus());
  assert.ok(await page.getByRole("button", { name: "Skip to the message box" }).evaluate((button) => button === document.activeElement));
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement?.id), "message");
  const said = [];
  await page.exposeFunction("heard", (text) => said.push(text));
  await page.evaluate(() => {
    const region = [...document.querySelectorAll("[aria-live=polite]")].at(-1);
    new MutationObserver(() => window.heard(region.textContent)).observe(region, { childList: true, characterData: true, subtree: true });
  });
  await page.keyboard.type("Hello");
  await page.keyboard.press("Enter");
  await answered(page);
  await until(() => said.at(-1)?.includes("A short answer."));
  assert.ok(said.length <= 2, said.join("|"));
  assert.equal(await page.evaluate(() => document.activeElement?.id), "message");
  assert.deepEqual(faults, []);
  await context.close();
});
