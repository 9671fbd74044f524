"""Takes the screenshots of the docs, of the page with the real model: ``python -m tests.api_service.page.screenshots``.

Fonts are the machine's. ``pngquant`` makes the files a third as large.
"""

import re
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.mesh import Mesh

DOCS = Path(__file__).parents[3] / "docs" / "page"
QUESTIONS = (
    "How do I add two numbers in a shell?",
    "Why is the sky blue?",
    "What is the capital of France?",
    "How do I write Hello World in Python? Explain in one sentence.",
)


def main() -> None:
    chromium = shutil.which("chromium")
    DOCS.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        Mesh(Path(folder)) as mesh,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium) as browser,
    ):
        _take(browser, mesh.api)


def _take(browser: Browser, address: str) -> None:
    desk = browser.new_page(base_url=address, locale="en-GB", viewport={"width": 1160, "height": 720})
    desk.goto("/")
    for question in QUESTIONS:
        _ask(desk, question)
    desk.screenshot(path=DOCS / "desk.png")
    _start(desk, "Tell me a long story about a river.")
    expect(desk.locator("#answer")).to_have_text(re.compile(".{120}", re.DOTALL), timeout=60_000)
    desk.screenshot(path=DOCS / "writing.png")
    phone = browser.new_context(
        base_url=address,
        locale="ru-RU",
        color_scheme="dark",
        viewport={"width": 390, "height": 720},
        is_mobile=True,
        has_touch=True,
        storage_state=desk.context.storage_state(),
    ).new_page()
    phone.goto("/#4")
    expect(phone.locator("#dot")).to_have_attribute("data-state", "completed")
    phone.screenshot(path=DOCS / "phone.png")


def _start(page: Page, question: str) -> None:
    page.get_by_role("textbox").fill(question)
    page.get_by_role("textbox").press("Enter")
    expect(page.locator("#question-text")).to_have_text(question)


def _ask(page: Page, question: str) -> None:
    _start(page, question)
    expect(page.locator("#dot")).to_have_attribute("data-state", re.compile("completed|incomplete"), timeout=60_000)


if __name__ == "__main__":
    main()
