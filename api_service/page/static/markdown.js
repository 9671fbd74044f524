// Markdown to nodes of this page. A model's text is untrusted: HTML in it is shown as text (markdown-it's html: false),
// what comes out is cut down to a few elements and attributes (DOMPurify), and the page's Content-Security-Policy lets
// neither a script nor a foreign image through.

import { words } from "./words.js";

const markdown = window.markdownit({ html: false, linkify: true, breaks: false });
markdown.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
const { rules } = markdown.renderer;

// An image would tell a foreign host who reads: a link says where it is, and nothing is loaded.
rules.image = (tokens, index, options, env, self) => {
  const token = tokens[index];
  const label = markdown.utils.escapeHtml(words.image(self.renderInlineAsText(token.children, options, env).trim()));
  const source = token.attrGet("src");
  return env.inLink || !source ? label : `<a href="${markdown.utils.escapeHtml(source)}">${label}</a>`;
};
rules.link_open = (tokens, index, options, env, self) => {
  env.inLink = true;
  return self.renderToken(tokens, index, options);
};
rules.link_close = (tokens, index, options, env, self) => {
  env.inLink = false;
  return self.renderToken(tokens, index, options);
};
// The policy refuses style attributes, so that a column's alignment becomes a class.
for (const name of ["th_open", "td_open"]) {
  rules[name] = (tokens, index, options, env, self) => {
    const token = tokens[index];
    const side = /text-align:(left|center|right)/.exec(token.attrGet("style") ?? "")?.[1];
    token.attrs = side ? [["class", `align-${side}`]] : null;
    return self.renderToken(tokens, index, options);
  };
}

const ALLOWED = {
  ALLOWED_TAGS: (
    "p br hr h3 h4 h5 h6 ul ol li blockquote pre code em strong s a table thead tbody tr th td"
  ).split(" "),
  ALLOWED_ATTR: ["href", "title", "start", "class"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};
const CLASS = /^(?:language-[\w+#.-]{1,40}|align-(?:left|center|right))$/;

window.DOMPurify.addHook("uponSanitizeAttribute", (_node, attribute) => {
  if (attribute.attrName === "class" && !CLASS.test(attribute.attrValue)) {
    attribute.keepAttr = false;
  }
});

/** The text with line ends as Markdown counts them; half of one at the end is left as it is. */
function withPlainLineEnds(text) {
  return text.replace(/\r\n|\r(?=[^])/g, "\n");
}

/** The blocks of a text, each as { line, tokens }: line is where it begins. */
function blocksOf(text, env) {
  const blocks = [];
  let depth = 0;
  for (const token of markdown.parse(text, env)) {
    if (depth === 0) {
      blocks.push({ line: token.map[0], tokens: [] });
    }
    blocks.at(-1).tokens.push(token);
    depth += token.nesting;
  }
  return blocks;
}

/** The page has headings of its own above the answer: a model's begin at the third level and leave none out. */
function renumberHeadings(tokens, env) {
  for (const token of tokens) {
    if (token.type === "heading_open" || token.type === "heading_close") {
      const level = Math.min(Number(token.tag[1]) + 2, env.heading + 1, 6);
      if (token.type === "heading_open") {
        env.open = level;
      } else {
        env.heading = env.open;
      }
      token.tag = `h${env.open}`;
    }
  }
}

function nodesOf(tokens, env) {
  renumberHeadings(tokens, env);
  const html = markdown.renderer.render(tokens, markdown.options, env);
  const fragment = window.DOMPurify.sanitize(html, ALLOWED);
  for (const link of fragment.querySelectorAll("a")) {
    if (!link.hasAttribute("href")) {
      link.replaceWith(...link.childNodes); // it led where no answer may lead
      continue;
    }
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const table of fragment.querySelectorAll("table")) {
    wrap(table, "table", words.table);
  }
  for (const pre of fragment.querySelectorAll("pre")) {
    const code = pre.querySelector("code") ?? pre;
    const named = /language-(\S+)/.exec(code.className)?.[1] ?? "";
    const frame = wrap(pre, "code", named ? `${words.code}: ${named}` : words.code);
    const head = document.createElement("div");
    head.className = "code-head";
    const name = document.createElement("span");
    name.textContent = named;
    const copy = document.createElement("button");
    copy.type = "button";
    copy.className = "quiet copy";
    copy.textContent = words.copy;
    head.append(name, copy);
    frame.before(head);
    const outer = document.createElement("div");
    outer.className = "code-frame";
    head.replaceWith(outer);
    outer.append(head, frame);
  }
  return [...fragment.childNodes];
}

// What can be wider than the page scrolls by itself, by keyboard too.
function wrap(element, kind, label) {
  const frame = document.createElement("div");
  frame.className = `${kind}-scroll`;
  frame.tabIndex = 0;
  frame.setAttribute("role", "group");
  frame.setAttribute("aria-label", label);
  element.replaceWith(frame);
  frame.append(element);
  return frame;
}

/**
 * A text that grows, shown in an element. Blocks that can no longer change are rendered once and left alone, so that a
 * long answer costs no more at its end than at its beginning, and what somebody has selected stays selected.
 */
export class GrowingMarkdown {
  #element;
  #rendered;
  #text = "";
  #rest = ""; // the text from the last block on, which can still change
  #restNodes = [];
  #heading = 2;
  #timer = null;
  #cost = 0; // milliseconds of the last rendering

  /** `rendered` is called after each rendering. */
  constructor(element, rendered) {
    this.#element = element;
    this.#rendered = rendered;
  }

  get text() {
    return this.#text;
  }

  append(text) {
    this.#text += text;
    this.#rest += text;
    // Rendering may take a fifth of the time at most, however long a block has become.
    this.#timer ??= setTimeout(() => this.#render(), Math.max(30, 4 * this.#cost));
  }

  /** Render no more: the element belongs to another text. */
  stop() {
    this.#cancel();
  }

  /** Render what has been appended now, and not in a moment. */
  flush() {
    if (this.#timer !== null) {
      this.#render();
    }
  }

  /** Show this text and no other. */
  set(text) {
    if (text === this.#text) {
      this.flush();
      // A definition of a link can stand below its use, in a block that was rendered before.
      if (!/^ {0,3}\[[^\]\n]+\]:/m.test(text)) {
        return;
      }
    }
    this.#cancel();
    this.#text = text;
    this.#rest = text;
    this.#heading = 2;
    this.#restNodes = [];
    this.#element.replaceChildren();
    this.#render();
  }

  #cancel() {
    clearTimeout(this.#timer);
    this.#timer = null;
  }

  #render() {
    const began = performance.now();
    this.#cancel();
    this.#rest = withPlainLineEnds(this.#rest);
    const references = {};
    const blocks = blocksOf(this.#rest, references);
    const nodes = [];
    for (const [index, { tokens }] of blocks.entries()) {
      const env = { ...references, heading: this.#heading };
      const made = nodesOf(tokens, env);
      if (index === blocks.length - 1) {
        this.#replaceRest(nodes, made);
      } else {
        this.#heading = env.heading;
        nodes.push(...made);
      }
    }
    if (blocks.length === 0) {
      this.#replaceRest([], []);
    } else {
      this.#rest = fromLine(this.#rest, blocks.at(-1).line);
    }
    this.#cost = performance.now() - began;
    this.#rendered();
  }

  #replaceRest(settled, rest) {
    for (const node of this.#restNodes) {
      node.remove();
    }
    this.#element.append(...settled, ...rest);
    this.#restNodes = rest;
  }
}

function fromLine(text, line) {
  let offset = 0;
  for (let passed = 0; passed < line; passed += 1) {
    offset = text.indexOf("\n", offset) + 1;
  }
  return text.slice(offset);
}
