"""The network goes, the server dies: the page finds its way back by itself."""

import os
import re
import signal
import time

import pytest
from playwright.sync_api import expect

from tests.api_service.page.conftest import Opener
from tests.fakes.model_server import expected_answer

pytestmark = pytest.mark.e2e


def test_a_killed_server_costs_the_reader_nothing(read: Opener) -> None:
    reader = read()
    reader.ask_and_hold("survive this", directives="tokens=40")
    question = reader.page.locator("#question-text").inner_text()
    written = reader.answer.inner_text()
    os.kill(reader.mesh.processes()["api_service"], signal.SIGKILL)
    expect(reader.status).to_have_text("The server cannot be reached. Trying again by itself…")
    assert reader.answer.inner_text() == written
    reader.check_accessibility()
    expect(reader.status).to_have_text("Writing…")
    reader.model.release()
    reader.expect_state("completed")
    expect(reader.answer).to_have_text(expected_answer(question))


def test_an_answer_whose_generation_was_killed_goes_on_where_it_was(read: Opener) -> None:
    reader = read()
    reader.ask_and_hold("another attempt", directives="tokens=40")
    question = reader.page.locator("#question-text").inner_text()
    os.kill(reader.mesh.processes()["llm_service"], signal.SIGKILL)
    finished = reader.page.locator("#dot[data-state=completed]")
    give_up_at = time.monotonic() + 60
    while not finished.is_visible() and time.monotonic() < give_up_at:
        reader.model.release()  # the next attempt holds again
        reader.page.wait_for_timeout(100)
    expect(reader.answer).to_have_text(expected_answer(question))
    expect(finished).to_be_visible()


def test_what_was_asked_without_a_network_is_sent_when_it_is_back(read: Opener) -> None:
    reader = read()
    reader.page.context.set_offline(True)
    reader.box.fill("asked in a tunnel")
    reader.box.press("Enter")
    expect(reader.page.get_by_role("alert")).to_have_text(re.compile("cannot be reached. Your question is kept"))
    reader.check_accessibility()
    reader.button("Do not send").click()
    expect(reader.box).to_be_editable()
    expect(reader.box).to_have_value("asked in a tunnel")
    reader.box.press("Enter")
    expect(reader.page.get_by_role("alert")).to_have_text(re.compile("cannot be reached. Your question is kept"))
    reader.page.context.set_offline(False)
    reader.expect_state("completed")
    expect(reader.entries).to_have_count(1)
    assert reader.model.counts("asked in a tunnel")["requests"] == 1
