// Markdown to elements. What a model writes is hostile input: no HTML is ever made of it, only elements of the list below, whose
// text the browser escapes and whose only attributes are made here. Pictures are shown as links, as loading one would tell on the
// reader.

import MarkdownIt, { type Token } from "markdown-it";
import type { ComponentChildren } from "preact";
import { useMemo } from "preact/hooks";
import { Copy } from "./copy";

const parser = new MarkdownIt({ html: false, linkify: true, });
// "readme.md" is no address.
parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false });

const ELEMENTS = new Set("p h1 h2 h3 h4 h5 h6 blockquote ul ol li strong em s table thead tbody tr th td".split(" "));
const LINKS = new Set(["http:", "https:", "mailto:"]);

/** An address that may be followed: absolute, of a harmless kind. */
export function address(href: string): string | undefined {
  const url = URL.canParse(href) ? new URL(href) : undefined;
  return url && LINKS.has(url.protocol) ? url.href : undefined;
}

function link(href: string | number | null, children: ComponentChildren) {
  const to = address(String(href ?? ""));
  return to ? <a href={to} target="_blank" rel="noopener noreferrer nofollow">{children}</a> : <span>{children}</span>;
}

function Code({ token }: { token: Token }) {
  const language = token.info.trim().split(/\s+/)[0]?.slice(0, 30);
  const text = token.content.replace(/\n$/, "");
  return (
    <figure class="code">
      <figcaption>
        <span>{language || "text"}</span>
        <Copy text={() => text} label="Copy the code" />
      </figcaption>
      <pre tabIndex={0} aria-label={language ? `Code, ${language}` : "Code"}>
        <code>{text}</code>
      </pre>
    </figure>
  );
}

function leaf(token: Token): ComponentChildren {
  switch (token.type) {
    case "inline":
      return elements(token.children ?? []);
    case "fence":
    case "code_block":
      return <Code token={token} />;
    case "code_inline":
      return <code>{token.content}</code>;
    case "softbreak":
      return "\n";
    case "hardbreak":
      return <br />;
    case "hr":
      return <hr />;
    case "image":
      return link(token.attrGet("src"), `[image: ${token.content || "no description"}]`);
    default:
      return token.content;
  }
}

function element(token: Token, children: ComponentChildren[]): ComponentChildren {
  if (token.hidden) return children;
  if (token.tag === "a") return link(token.attrGet("href"), children);
  if (!ELEMENTS.has(token.tag)) return children;
  if (token.tag === "table") {
    return (
      <div class="table" tabIndex={0} role="region" aria-label="Table">
        <table>{children}</table>
      </div>
    );
  }
  // Headings of an answer stand below those of the page.
  const heading = /^h[1-6]$/.test(token.tag) ? `h${Math.min(6, Number(token.tag[1]) + 2)}` : undefined;
  const Tag = (heading ?? token.tag) as "p";
  const start = token.tag === "ol" ? { start: Number(token.attrGet("start") ?? 1) } : {};
  const align = /^text-align:(left|center|right)$/.exec(String(token.attrGet("style")))?.[1];
  return (
    <Tag class={align && `to-${align}`} {...start}>
      {children}
    </Tag>
  );
}

/** The elements of a flat list in which some tokens open and others close. */
function elements(tokens: Token[]): ComponentChildren[] {
  const open: { token: Token; children: ComponentChildren[] }[] = [];
  const top: ComponentChildren[] = [];
  const into = () => open.at(-1)?.children ?? top;
  for (const token of tokens) {
    if (token.nesting === 1) {
      open.push({ token, children: [] });
    } else if (token.nesting === -1) {
      const done = open.pop();
      if (done) into().push(element(done.token, done.children));
    } else {
      into().push(leaf(token));
    }
  }
  return top;
}

/** A text as its writer meant it; as it stands where that can not be found out. */
export function Markdown({ text }: { text: string }) {
  const made = useMemo(() => {
    try {
      return elements(parser.parse(text, {}));
    } catch {
      return <pre>{text}</pre>;
    }
  }, [text]);
  return <div class="markdown">{made}</div>;
}
