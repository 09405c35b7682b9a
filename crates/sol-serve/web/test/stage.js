// A server, a browser, and pages that complain about everything they should not do.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

/** No step takes longer. */
const LONGEST = 30_000;
const SOL = process.env.SOL ?? "../../../target/debug/sol";
const BROWSER = process.env.CHROMIUM ?? "/usr/bin/chromium";
const SHOTS = process.env.SHOTS;

/** Starts `sol serve` for a model; where it is, and a way to end it. */
export async function serve(model, args = [], env = {}) {
  const all = ["serve", "-m", model, "--port", "0", "--json", "--threads", "1", ...args];
  const server = spawn(SOL, all, { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "ignore"] });
  const [line] = await Promise.race([
    once(createInterface(server.stdout), "line"),
    once(server, "exit").then(([code]) => Promise.reject(new Error(`sol serve ended with ${code}`))),
  ]);
  const end = async () => {
    if (server.exitCode === null && server.signalCode === null && server.kill("SIGKILL")) await once(server, "exit");
  };
  return { url: JSON.parse(line).page, end };
}

/** Debian's Chromium, for which there is nothing but this machine. */
export function launch() {
  return chromium.launch({
    executablePath: BROWSER,
    args: [
      "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ],
  });
}

/**
 * Opens the page in a profile of its own. `faults` gathers errors of the console, breaches of the policy and requests to anybody
 * else; what the console says of answers with an error status is left out, as those tests look at the page's own words.
 */
export async function open(browser, url, { init, routes = {}, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  context.setDefaultTimeout(LONGEST);
  const page = await context.newPage();
  const faults = [];
  page.on("pageerror", (error) => faults.push(`error: ${error.message}`));
  page.on("console", (message) => {
    const status = message.text().startsWith("Failed to load resource");
    if (["error", "warning"].includes(message.type()) && !status) faults.push(`console: ${message.text()}`);
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(url) && !/^(data|blob):/.test(request.url())) faults.push(`request to ${request.url()}`);
  });
  page.on("dialog", (dialog) => {
    faults.push(`dialog: ${dialog.message()}`);
    void dialog.dismiss();
  });
  if (init) await page.addInitScript(init);
  for (const [path, how] of Object.entries(routes)) await page.route(url + path, how);
  await page.goto(url);
  return { page, context, faults };
}

/** Sends a message, once the page knows whom to ask. */
export async function ask(page, text) {
  await page.locator("header .model").filter({ hasText: /./ }).waitFor();
  const box = page.getByLabel("Message", { exact: true });
  await box.fill(text);
  // On the box: a dialog that is just closing gives the focus back to the button that opened it.
  await box.press("Enter");
}

/** Opens the settings; only an open window takes Esc. */
export async function settings(page) {
  await page.getByRole("button", { name: "Settings" }).click();
  await page.getByRole("dialog").waitFor();
}

/** The last answer once nothing more comes. */
export async function answered(page) {
  const answer = page.locator(".answer").last();
  await page.locator('.answer[aria-busy="true"]').waitFor({ state: "detached" });
  await answer.waitFor();
  return answer;
}

/** Server-sent events as the server writes them. */
export function stream(text, usage = { prompt_tokens: 10, completion_tokens: 5 }) {
  const chunk = (value) => `data: ${JSON.stringify(value)}\n\n`;
  const pieces = text.match(/[^]{1,7}/g) ?? [];
  return (
    ": a comment\n\n" +
    pieces.map((content) => chunk({ choices: [{ index: 0, delta: { content }, finish_reason: null }], usage: null })).join("") +
    chunk({ choices: [{ index: 0, delta: {}, finish_reason: "stop" }], usage: null }) +
    chunk({ choices: [], usage }) +
    "data: [DONE]\n\n"
  );
}

/** Answers a chat with this text. */
export function says(text) {
  return (route) => route.fulfill({ contentType: "text/event-stream", body: stream(text) });
}

/** Keeps a picture where somebody wants to look at it. */
export async function shot(page, name) {
  if (SHOTS) await page.screenshot({ path: `${SHOTS}/${name}.png` });
}
