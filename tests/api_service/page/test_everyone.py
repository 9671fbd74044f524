"""For everybody: by keyboard, in Russian, in the dark, on a phone, to a screen reader."""

import re
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.api_service.page.conftest import Opener

pytestmark = pytest.mark.e2e

RICH = """[[echo=1 hold=30]]

#### A heading too deep

Some *emphasis*, a [link](https://example.org/) and `code`.

```python
print("as wide as it takes", "as wide as it takes", "as wide as it takes", "as wide as it takes")
```

| left | right |
| :--- | ---: |
| 1 | 2 |

1. one
2. two

# A heading after it
"""
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


@pytest.mark.parametrize(
    "options",
    [{}, {"color_scheme": "dark"}, PHONE, {**PHONE, "color_scheme": "dark", "locale": "ru-RU"}],
    ids=["desk", "dark", "phone", "dark phone in Russian"],
)
def test_no_state_of_the_page_shuts_anybody_out(read: Opener, options: dict[str, Any]) -> None:
    reader = read(**options)
    reader.check_accessibility()
    reader.check_fits()
    reader.ask(f"{options}{RICH}")
    reader.expect_state("in_progress")
    expect(reader.answer.locator("pre")).to_be_visible()
    reader.check_accessibility()
    reader.model.release()
    reader.expect_state("completed")
    reader.check_accessibility()
    reader.check_fits()
    levels = [heading.evaluate("element => element.tagName") for heading in reader.answer.get_by_role("heading").all()]
    assert levels == ["H3", "H3"]
    if options.get("is_mobile"):
        toggle = reader.page.locator("#list-toggle")
        expect(reader.entries.first).to_be_hidden()
        toggle.click()
        expect(reader.entries.first).to_be_visible()
        reader.check_accessibility()
        reader.page.keyboard.press("Escape")
        expect(reader.entries.first).to_be_hidden()
        expect(toggle).to_be_focused()
        toggle.click()
        reader.entries.first.get_by_role("link").click()
        expect(reader.entries.first).to_be_hidden()


def test_everything_can_be_done_by_keyboard(read: Opener) -> None:
    reader = read("/", permissions=["clipboard-read", "clipboard-write"])
    keyboard = reader.page.keyboard
    reader.page.reload()
    focused = reader.page.locator(":focus")

    def tab_to(name: str, *, back: bool = False) -> None:
        for _ in range(25):
            keyboard.press("Shift+Tab" if back else "Tab")
            if name in (focused.get_attribute("aria-label") or "", focused.inner_text()):
                return
        raise AssertionError(f"the keyboard does not get to {name}")

    tab_to("Skip to the question box", back=True)
    expect(focused).to_be_in_viewport()
    keyboard.press("Enter")
    keyboard.type("by keyboard [[echo=1]]")
    keyboard.press("Shift+Enter")
    keyboard.type("```sh")
    keyboard.press("Shift+Enter")
    keyboard.type("make run")
    keyboard.press("Enter")
    reader.expect_state("completed")
    expect(reader.box).to_be_focused()
    tab_to("Copy", back=True)  # of the bar
    tab_to("Copy", back=True)  # of the block of code
    keyboard.press("Enter")
    expect(reader.page.locator("[aria-live]")).to_have_text("Copied")
    assert reader.page.evaluate("navigator.clipboard.readText()") == "make run"
    tab_to("Ask again")
    keyboard.press("Enter")
    expect(reader.entries).to_have_count(2)
    reader.expect_state("completed")
    expect(reader.page.get_by_role("heading", name="Question", exact=True)).to_be_focused()
    while not focused.evaluate("element => element.matches('#questions li:last-child a')"):
        keyboard.press("Shift+Tab")
    keyboard.press("Enter")
    expect(reader.page.get_by_role("heading", name="Question", exact=True)).to_be_focused()
    reader.ask_and_hold("stopped by keyboard")
    reader.box.focus()
    tab_to("Stop", back=True)
    keyboard.press("Space")
    reader.expect_state("cancelled")
    expect(reader.button("Ask again")).to_be_focused()


def test_it_speaks_russian_where_the_browser_does(read: Opener) -> None:
    reader = read(locale="ru-RU")
    assert reader.page.locator("html").get_attribute("lang") == "ru"
    expect(reader.page.get_by_text("Что вы хотите узнать?")).to_be_visible()
    reader.ask("почему так долго? [[fault=context]]")
    expect(reader.notice).to_have_text("Вопрос слишком длинный для модели. Пожалуйста, сократите его.")  # noqa: RUF001
    expect(reader.entries).to_have_text(re.compile("Ошибка"))
    reader.box.fill("ы" * 9_000)
    reader.box.press("Enter")
    expect(reader.page.get_by_role("alert")).to_have_text(re.compile("^Вопрос не принят"))


def test_enter_that_ends_a_composition_does_not_send(read: Opener) -> None:
    reader = read()
    reader.box.fill("にほん")
    reader.box.dispatch_event("keydown", {"key": "Enter", "isComposing": True, "bubbles": True, "cancelable": True})
    expect(reader.box).to_have_value("にほん")
    expect(reader.entries).to_have_count(0)


def test_it_works_where_the_browser_stores_nothing(read: Opener) -> None:
    reader = read()
    reader.page.add_init_script(
        "Storage.prototype.getItem = Storage.prototype.setItem = () => { throw new DOMException('', 'SecurityError') }"
    )
    reader.page.reload()
    reader.ask("stored nowhere")
    reader.expect_state("completed")
    expect(reader.entries).to_have_count(1)
