"""Answers that attack whoever reads them, or are merely enormous: harmless, and readable all the same."""

import pytest
from playwright.sync_api import expect

from tests.api_service.page.conftest import Opener

pytestmark = pytest.mark.e2e

# Each would call alert(), which the fixture counts, or ask another host, which it counts too.
ATTACKS = """[[echo=1]]<script>alert(1)</script>

<img src=x onerror=alert(1)><svg onload=alert(1)><details open ontoggle=alert(1)>

<iframe src="javascript:alert(1)"></iframe><object data="https://evil.example/o"></object><base href="https://evil.example/">

<style>@import "https://evil.example/s.css"; body { display: none }</style><meta http-equiv=refresh content="0;url=https://evil.example/">

<form action="https://evil.example/"><button>sign in</button></form><link rel=stylesheet href="https://evil.example/l.css">

![a picture](https://evil.example/i.png "t") ![](https://evil.example/j.png) [![in a link](https://evil.example/k.png)](https://example.org/)

![data](data:image/svg+xml;base64,PHN2Zy8+) ![ref][r]

[r]: https://evil.example/ref.png

[one](javascript:alert(1)) [two](JaVaScRiPt:alert(1)) [three](java&#115;cript:alert(1)) [four](&#x1;javascript:alert(1))

[five](data:text/html,<script>alert(1)</script>) [six](vbscript:alert(1)) <javascript:alert(1)>

[seven](//evil.example/x)

[eight](https://example.org/" onmouseover="alert(1)) [nine](file:///etc/passwd) [ten](blob:https://example.org/x)

``` "><img/src=x/onerror=alert(1)>
</code></pre><script>alert(1)</script>
```

| <img src=x onerror=alert(1)> | b |
| --- | --- |
| <a href="javascript:alert(1)" style="position:fixed;inset:0">c</a> | `<b>` |

<math><mtext></p><style><!--</style><img title="--&gt;&lt;img src=1 onerror=alert(1)&gt;">

<a id=open name=composer class=skip>clobber</a>

the end"""
TAGS = {
    *("P", "BR", "HR", "H3", "H4", "H5", "H6", "UL", "OL", "LI", "BLOCKQUOTE", "PRE", "CODE", "EM", "STRONG", "S", "A"),
    *("TABLE", "THEAD", "TBODY", "TR", "TH", "TD"),
    *("DIV", "SPAN", "BUTTON"),  # the page's own frames around code and tables
}


def test_an_answer_cannot_attack_its_reader(read: Opener) -> None:
    reader = read()
    reader.ask(ATTACKS)
    reader.expect_state("completed")
    expect(reader.answer).to_contain_text("the end")
    expect(reader.answer).to_contain_text("<script>alert(1)</script>")  # shown, as it was written
    expect(reader.answer.get_by_role("link", name="Image: a picture")).to_have_attribute(
        "href", "https://evil.example/i.png"
    )
    elements = reader.answer.locator("*")
    assert set(elements.evaluate_all("all => all.map((element) => element.tagName)")) <= TAGS
    attributes = set(elements.evaluate_all("all => all.flatMap((element) => element.getAttributeNames())"))
    assert attributes <= {"href", "title", "start", "class", "target", "rel", "tabindex", "role", "aria-label", "type"}
    links = reader.answer.locator("a").evaluate_all("all => all.map((link) => [link.href, link.rel, link.target])")
    assert links != []
    for href, rel, target in links:
        assert href.startswith("https://"), href
        assert (rel, target) == ("noopener noreferrer nofollow", "_blank")
    reader.check_accessibility()


def test_html_in_a_question_is_shown_as_text(read: Opener) -> None:
    reader = read()
    reader.ask("<img src=x onerror=alert(1)><b>bold</b>")
    reader.expect_state("completed")
    expect(reader.entries).to_contain_text("<b>bold</b>")
    assert reader.page.locator("#question-text *, #questions b, #questions img").count() == 0


def test_the_policy_holds_where_the_sanitiser_would_not(read: Opener) -> None:
    reader = read()
    said = reader.page.evaluate(
        """async () => {
            const refused = [];
            document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
            const attempt = (action) => { try { action() } catch (error) { refused.push(error.name) } };
            attempt(() => { document.body.innerHTML = "<img src=x onerror=alert(1)>" });
            attempt(() => trustedTypes.createPolicy("mine", { createHTML: (html) => html }));
            const add = (tag, how) => document.body.append(Object.assign(document.createElement(tag), how));
            add("img", { src: "https://evil.example/i.png" });
            add("style", { textContent: "body { display: none }" });
            add("iframe", { src: "https://evil.example/" });
            await fetch("https://evil.example/").catch(() => {});
            await new Promise((resolve) => setTimeout(resolve, 300));
            return [...new Set(refused)].sort();
        }"""
    )
    assert said == [
        "TypeError",
        "connect-src",
        "frame-src",
        "img-src",
        "require-trusted-types-for",
        "style-src-elem",
        "trusted-types",
    ]
    # The browser complained of each, and asked nobody.
    reader.complaints.clear()
    assert all("evil.example" in address for address in reader.foreign)
    reader.foreign.clear()


SENTENCE = "lorem ipsum dolor sit amet consectetur adipiscing elit "
ROW = "|" + " cell |" * 40 + "\n"
# Characters of each answer: some 100,000, written 20 times over from a question of 5,000.
ENORMOUS = {
    "prose": SENTENCE * 90 + "\n\n",
    "one word": "x" * 5_000,
    "blocks of code": "```\n" + (SENTENCE * 4 + "\n") * 20 + "```",
    "a table": ROW + "|" + "---|" * 40 + "\n" + ROW * 17,
    "brackets": "[" * 5_000,
    "quotes": ">" * 5_000,
    "nesting": "\n".join("  " * depth + "- x" for depth in range(60)) + "\n",
}


@pytest.mark.parametrize("name", ENORMOUS)
def test_a_hundred_thousand_characters(read: Opener, name: str) -> None:
    reader = read(viewport={"width": 800, "height": 600})
    text = ENORMOUS[name]
    times = -(-100_000 // len(text))
    reader.ask(f"[[echo={times}]]{text}")
    reader.expect_state("completed")
    reader.check_fits()
    assert reader.answer.evaluate("element => element.scrollWidth <= element.clientWidth")
    if name != "nesting":  # beyond 100 levels the parser leaves text out
        reader.answer.evaluate("element => element.querySelectorAll('.code-head').forEach((head) => head.remove())")
        shown = reader.answer.evaluate("element => element.textContent.replace(/[^a-z[]/g, '').length")
        assert shown == sum(character.islower() or character == "[" for character in text) * times
