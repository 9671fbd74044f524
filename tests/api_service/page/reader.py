"""Somebody at the page, and the model server behind it."""

import json
import time
from collections.abc import Callable
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from playwright.sync_api import ConsoleMessage, Dialog, Locator, Page, expect
from playwright.sync_api import Request as PageRequest

from tests.mesh import Mesh

MODEL_SLOTS = 6
"""Answers that the mesh writes at a time."""

PATIENCE = 15
expect.set_options(timeout=PATIENCE * 1_000)

_AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text()
# What a browser says by itself about connections that were lost and answers that are errors.
_USUAL = ("Failed to load resource", "net::ERR_")


class FakeModel:
    """The model server of tests/fakes, as a process."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._base = url.removesuffix("/v1")

    def release(self) -> None:
        """Let all answers go on that hold."""
        self._call("/fake/release", b"")

    def counts(self, question: str) -> dict[str, Any]:
        """The counters of one question, named without its directives."""
        counts: dict[str, Any] = json.loads(self._call(f"/fake/stats?question={quote(question)}"))
        return counts

    def _call(self, path: str, body: bytes | None = None) -> bytes:
        with urlopen(Request(self._base + path, data=body)) as response:
            content: bytes = response.read()
            return content


class Reader:
    """What a person does at the page and sees on it."""

    def __init__(self, page: Page, mesh: Mesh, model: FakeModel) -> None:
        self.page = page
        self.mesh = mesh
        self.model = model
        self.foreign: list[str] = []
        """Addresses on other hosts that the page asked."""
        self.complaints: list[str] = []
        """Exceptions, dialogs, and what the browser complained of."""
        page.on("request", self._note_request)
        page.on("console", self._note_message)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", self._note_dialog)

    def _note_request(self, request: PageRequest) -> None:
        if urlsplit(request.url).netloc != urlsplit(self.mesh.api).netloc:
            self.foreign.append(request.url)

    def _note_dialog(self, dialog: Dialog) -> None:
        self.complaints.append(dialog.message)
        dialog.dismiss()

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(usual in message.text for usual in _USUAL):
            self.complaints.append(message.text)

    @property
    def box(self) -> Locator:
        return self.page.get_by_role("textbox")

    @property
    def answer(self) -> Locator:
        return self.page.locator("#answer")

    @property
    def status(self) -> Locator:
        return self.page.get_by_role("status")

    @property
    def notice(self) -> Locator:
        return self.page.locator("#notice")

    @property
    def entries(self) -> Locator:
        return self.page.locator("#questions li")

    @property
    def question_id(self) -> int:
        return int(urlsplit(self.page.url).fragment)

    def button(self, name: str) -> Locator:
        return self.page.locator("main").get_by_role("button", name=name, exact=True)

    def ask(self, text: str) -> None:
        """Type a question, press Enter, and wait until it is accepted."""
        self.box.fill(text)
        self.box.press("Enter")
        expect(self.box).to_have_value("")
        expect(self.page.locator("#question-text")).to_have_text(text, use_inner_text=False)

    def ask_and_hold(self, text: str, *, words: int = 3, directives: str = "") -> None:
        """Ask something whose answer stops after so many words, until the model is released."""
        self.ask(f"{text} [[hold={words} {directives}]]")
        expect(self.status).to_have_text("Writing…")
        expect(self.answer).not_to_be_empty()

    def expect_state(self, state: str) -> None:
        """Wait until the open question is in this state."""
        expect(self.page.locator("#dot")).to_have_attribute("data-state", state)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the page does not show."""
        give_up_at = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < give_up_at
            self.page.wait_for_timeout(50)

    def check_accessibility(self) -> None:
        """Let axe look at the page as it is now: it has nothing to complain of."""
        self.page.evaluate(_AXE)
        found = self.page.evaluate("axe.run()")
        said = [
            f"{violation['id']}: {violation['help']}: {[node['html'] for node in violation['nodes']][:3]}"
            for violation in found["violations"]
        ]
        assert said == []

    def check_fits(self) -> None:
        """Nothing is wider than the window."""
        widths = self.page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
        assert widths[0] <= widths[1]
