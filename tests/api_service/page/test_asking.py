"""Asking, watching, stopping, asking again; the list, reloads and links."""

import re

import pytest
from playwright.sync_api import expect

from tests.api_service.page.conftest import Opener
from tests.api_service.page.reader import MODEL_SLOTS
from tests.fakes.model_server import expected_answer

pytestmark = pytest.mark.e2e


def test_enter_sends_and_the_answer_appears_as_it_is_written(read: Opener) -> None:
    reader = read()
    expect(reader.box).to_be_focused()
    expect(reader.page.get_by_role("button", name="Ask", exact=True)).to_be_disabled()
    reader.box.press_sequentially("first line")
    reader.box.press("Shift+Enter")
    reader.box.press_sequentially("second line [[tokens=9 hold=4]]")
    question = "first line\nsecond line [[tokens=9 hold=4]]"
    expect(reader.box).to_have_value(question)
    reader.box.press("Enter")
    expect(reader.status).to_have_text("Writing…")
    words = expected_answer(question).split()
    expect(reader.answer).to_have_text(" ".join(words[:4]))
    expect(reader.answer).to_have_attribute("aria-busy", "true")
    expect(reader.entries).to_have_text(re.compile("Writing"))
    expect(reader.button("Ask again")).to_be_hidden()
    expect(reader.page.locator("#question-text")).to_have_text(question)
    reader.model.release()
    expect(reader.status).to_have_text(re.compile(r"Answered in [\d.]+ sec"))
    expect(reader.answer).to_have_text(" ".join(words))
    expect(reader.answer).not_to_have_attribute("aria-busy", "true")
    expect(reader.entries).to_have_text(re.compile("Answered"))
    expect(reader.button("Stop")).to_be_hidden()


def test_stop_reaches_the_model_and_what_was_written_stays(read: Opener) -> None:
    reader = read()
    reader.ask_and_hold("stop me")
    written = reader.answer.inner_text()
    reader.button("Stop").click()
    reader.expect_state("cancelled")
    expect(reader.notice).to_have_text("The question was cancelled.")
    assert reader.answer.inner_text() == written
    expect(reader.entries).to_have_text(re.compile("Stopped"))
    reader.wait_until(lambda: reader.model.counts("stop me")["aborted"] == 1)
    reader.page.reload()
    reader.expect_state("cancelled")


def test_ask_again_gets_a_new_answer_where_asking_would_get_the_same(read: Opener) -> None:
    reader = read()
    reader.ask("once more")
    reader.expect_state("completed")
    first = reader.question_id
    reader.ask("once more")
    expect(reader.status).to_have_text("Answered before: this is the same answer.")
    second = reader.question_id
    assert second != first
    assert reader.model.counts("once more")["requests"] == 1
    elsewhere = read()  # which knows nothing but the link
    elsewhere.page.goto(f"/#{second}")
    elsewhere.expect_state("completed")
    expect(elsewhere.status).to_have_text("Answered before: this is the same answer.")
    reader.button("Ask again").click()
    expect(reader.entries).to_have_count(3)
    expect(reader.status).to_have_text(re.compile("Answered in"))
    assert reader.model.counts("once more")["requests"] == 2
    assert reader.question_id > second


def test_a_reload_in_mid_answer_and_a_second_tab_at_its_link(read: Opener) -> None:
    reader = read()
    reader.ask_and_hold("reload me", directives="tokens=30")
    question = reader.page.locator("#question-text").inner_text()
    written = reader.answer.inner_text()
    reader.page.reload()
    expect(reader.answer).to_have_text(written)
    expect(reader.page.locator("#question-text")).to_have_text(question)
    other = read(f"/#{reader.question_id}", context=reader.page.context)
    expect(other.answer).to_have_text(written)
    expect(other.page).to_have_title(re.compile("^reload me.* askmesh$"))
    reader.model.release()
    for tab in (reader, other):
        tab.expect_state("completed")
        expect(tab.answer).to_have_text(expected_answer(question))
        expect(tab.entries).to_have_text(re.compile("Answered"))
    stranger = read(f"/#{reader.question_id}")
    expect(stranger.answer).to_have_text(expected_answer(question))
    expect(stranger.page.locator("#question-text")).to_have_text(f"Question {reader.question_id}")
    expect(stranger.entries).to_have_count(0)


def test_leaving_an_answer_in_mid_sentence_takes_none_of_it_along(read: Opener) -> None:
    reader = read()
    reader.ask("the one that is opened [[tokens=5]]")
    reader.expect_state("completed")
    own = reader.answer.inner_text()
    reader.ask("the one that is left [[tokens=600 delay=0.002]]")
    expect(reader.answer).not_to_be_empty()
    reader.entries.nth(1).get_by_role("link").click()
    reader.expect_state("completed")
    expect(reader.entries.first).to_have_text(re.compile("Answered"))
    assert reader.answer.inner_text() == own


def test_the_list_goes_on_while_another_question_is_open(read: Opener) -> None:
    reader = read()
    reader.ask_and_hold("left alone")
    reader.page.get_by_role("link", name="New question").click()
    expect(reader.page.get_by_text("What would you like to know?")).to_be_visible()
    expect(reader.box).to_be_focused()
    other = read(context=reader.page.context)
    expect(other.entries).to_have_text(re.compile("Writing"))
    reader.model.release()
    expect(reader.entries).to_have_text(re.compile("Answered"))
    expect(other.entries).to_have_text(re.compile("Answered"))
    reader.page.go_back()
    reader.expect_state("completed")
    reader.entries.first.hover()
    reader.page.get_by_role("button", name=re.compile("Remove from the list: left alone")).click()
    expect(reader.entries).to_have_count(0)
    expect(other.entries).to_have_count(0)


def test_a_question_that_waits_says_how_long(read: Opener) -> None:
    reader = read()
    for number in range(MODEL_SLOTS):
        reader.ask_and_hold(f"ahead {number}")
    reader.ask("behind them")
    expect(reader.status).to_have_text(re.compile("Next in line"))
    expect(reader.button("Stop")).to_be_visible()
    reader.check_accessibility()
    reader.model.release()
    reader.expect_state("completed")


def test_a_question_that_is_refused_stays_in_the_box(read: Opener) -> None:
    reader = read()
    text = "x" * 9_000
    reader.box.fill(text)
    reader.box.press("Enter")
    expect(reader.page.get_by_role("alert")).to_have_text(
        "question_text has 9,000 characters: shorten it to at most 8,000 Unicode code points."
    )
    expect(reader.box).to_have_value(text)
    reader.check_accessibility()
    reader.page.reload()
    expect(reader.box).to_have_value(text)


def test_what_is_said_below_an_answer_that_was_followed_is_in_sight(read: Opener) -> None:
    reader = read(viewport={"width": 390, "height": 500})
    reader.ask_and_hold("follow me", words=150, directives="tokens=160 finish=length")
    reader.model.release()
    reader.expect_state("incomplete")
    below = "document.querySelector('#notice').getBoundingClientRect().bottom"
    assert reader.page.evaluate(f"{below} <= document.querySelector('footer').getBoundingClientRect().top")
    reader.page.reload()
    reader.expect_state("incomplete")
    assert reader.page.evaluate("document.scrollingElement.scrollTop") == 0


def test_a_failed_question_and_one_cut_off_say_what_to_do(read: Opener) -> None:
    reader = read()
    reader.ask("too long for it [[fault=context]]")
    expect(reader.notice).to_have_text("The question is too long for the model. Please shorten it.")
    expect(reader.entries).to_have_text(re.compile("Failed"))
    reader.check_accessibility()
    reader.ask("cut off [[finish=length]]")
    expect(reader.notice).to_have_text(re.compile("The answer is cut off: it reached the longest length"))


def test_a_link_to_no_question_says_so(read: Opener) -> None:
    reader = read("/#9007199254740991")
    expect(reader.notice).to_have_text(re.compile("There is no question with this number here"))
    reader.check_accessibility()
