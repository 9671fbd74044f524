"""Parts of the page's scripts, each by itself in the browser."""

from typing import Any

import pytest

from tests.api_service.page.conftest import Opener
from tests.api_service.page.reader import Reader

pytestmark = pytest.mark.e2e

GROWING = """# Title

A paragraph with *emphasis*, `code`, a [link][r] and 👩\u200d🚀.

Setext
------

- one
- two

  with more
    - deeper

1. a

2. b

```js
const fence = "# not a title";

| not | a table |
```

| a | b |
|---|---|
| 1 | 2 |

> quoted
lazily

    indented

text\r\nwith\rother ends

***

last

[r]: https://example.org/
"""


def run(reader: Reader, script: str, argument: object = None) -> Any:
    """Run a function of the page's modules, which are reachable where the page has them."""
    base = reader.page.locator("script[type=module]").get_attribute("src")
    assert base is not None
    modules = base.removesuffix("main.js")
    return reader.page.evaluate(f"async (argument) => {{ const files = '/{modules}'; {script} }}", argument)


def test_a_text_that_grows_looks_as_if_it_had_been_there_at_once(read: Opener) -> None:
    shown = run(
        read(),
        """
        const { GrowingMarkdown } = await import(files + "markdown.js");
        const whole = document.createElement("div");
        new GrowingMarkdown(whole, () => {}).set(argument);
        const different = [];
        for (const step of [1, 2, 3, 7, 50]) {
            const grown = document.createElement("div");
            const growing = new GrowingMarkdown(grown, () => {});
            for (let at = 0; at < argument.length; at += step) {
                growing.append(argument.slice(at, at + step));
                growing.flush();
            }
            growing.set(argument);
            if (grown.innerHTML !== whole.innerHTML) {
                different.push([step, grown.innerHTML]);
            }
        }
        return { different, html: whole.innerHTML };
        """,
        GROWING,
    )
    assert shown["different"] == []
    for part in ("<h3>Title</h3>", '<a href="https://example.org/"', "<h4>Setext</h4>", "<table>", "<blockquote>"):
        assert part in shown["html"]


def test_what_can_no_longer_change_is_not_rendered_again(read: Opener) -> None:
    kept = run(
        read(),
        """
        const { GrowingMarkdown } = await import(files + "markdown.js");
        const element = document.createElement("div");
        const growing = new GrowingMarkdown(element, () => {});
        growing.append("first\\n\\nsecond\\n\\nthird");
        growing.flush();
        const [first, second] = element.children;
        growing.append(" and\\n\\nfourth");
        growing.set(growing.text);
        return [first, second].every((node) => node.isConnected === false && node.parentNode === element);
        """,
    )
    assert kept


def test_events_are_read_however_they_are_cut(read: Opener) -> None:
    lines = [
        ":heartbeat",
        "retry: 1000",
        "",
        "event: delta",
        "id: 0:5",
        'data: {"text": "щ👩"}',
        "",
        "event:delta",
        "data:first",
        "data: second: half",
        "",
        "event: without data",
        "",
        "event: cut off",
        "data: {",
    ]
    reader = read()
    for line_end in ("\n", "\r\n", "\r"):
        found = run(
            reader,
            """
            const { events } = await import(files + "stream.js");
            const bytes = new TextEncoder().encode(argument);
            const results = [];
            for (const step of [1, 2, 5, bytes.length]) {
                let alive = 0;
                const body = new ReadableStream({
                    start(controller) {
                        for (let at = 0; at < bytes.length; at += step) controller.enqueue(bytes.slice(at, at + step));
                        controller.close();
                    },
                });
                const all = [];
                for await (const { type, data, id } of events(body, () => { alive += 1 })) all.push([type, data, id]);
                results.push([alive > 0, all]);
            }
            return results;
            """,
            line_end.join(lines),
        )
        events = [["delta", '{"text": "щ👩"}', "0:5"], ["delta", "first\nsecond: half", None]]
        assert found == [[True, events]] * 4
