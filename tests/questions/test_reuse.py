"""An answer is given again only for what made it: the same request, answered by the same model, not too long ago."""

from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from models.identity import UNKNOWN, identity, model_id, remember, remembered
from questions.asking import Accepted, Source, accept
from questions.claims import GenerationResult, finish
from questions.states import FinishReason, State
from tests.questions import former_release
from tests.questions.actors import MODEL, asked, claim_one, completed, question, rows, seen, worker


async def ask(engine: AsyncEngine, words: str = "why?", **changed: object) -> Accepted:
    return await accept(engine, replace(question(words), **changed))  # type: ignore[arg-type]


async def answer(engine: AsyncEngine, result: GenerationResult, reuse_seconds: float = 3_600) -> None:
    assert await finish(engine, await claim_one(engine, await worker(engine)), result, reuse_seconds)


async def age(engine: AsyncEngine, seconds: float) -> None:
    """As if the answers had been finished so long ago."""
    await rows(
        engine,
        "UPDATE answers SET finished_at = finished_at - make_interval(secs => :s),"
        " reuse_until = reuse_until - make_interval(secs => :s) RETURNING id",
        s=seconds,
    )


@pytest.mark.parametrize(
    ("by", "of", "source"),
    [
        (MODEL, MODEL, Source.CACHED),
        (identity("another", ""), MODEL, Source.NEW),
        (identity("test-model", "2"), MODEL, Source.NEW),
        (None, MODEL, Source.NEW),
        (MODEL, UNKNOWN, Source.NEW),
        (None, UNKNOWN, Source.NEW),
    ],
)
async def test_an_answer_is_reused_where_the_model_of_the_key_has_written_it(
    engine: AsyncEngine, by: str | None, of: str, source: Source
) -> None:
    """One key throughout: what is asked is known to be the same."""
    await ask(engine, identity=of)
    await answer(engine, completed("because", by))

    again = await ask(engine, identity=of)

    assert again.source is source
    assert again.question is not None
    assert again.question.written_by == (MODEL if source is Source.CACHED else None)
    assert (await ask(engine, identity=of)).source is (Source.COALESCED if source is Source.NEW else Source.CACHED)
    assert len(await rows(engine, "SELECT id FROM answers WHERE reusable")) == 1


@pytest.mark.parametrize(
    ("finished_ago", "under", "now", "source"),
    [
        (0, 3_600, 3_600, Source.CACHED),
        (100, 3_600, 200, Source.CACHED),
        (100, 3_600, 50, Source.NEW),  # lowered since
        (0, 3_600, 0, Source.NEW),  # switched off since
        (100, 50, 3_600, Source.NEW),  # raised since: what was over stays so
        (0, 0, 3_600, Source.NEW),
    ],
)
async def test_the_time_of_now_holds_at_once_and_that_of_then_too(
    engine: AsyncEngine, finished_ago: float, under: float, now: float, source: Source
) -> None:
    await ask(engine, reuse_seconds=under)
    await answer(engine, completed(), under)
    await age(engine, finished_ago)

    assert (await ask(engine, reuse_seconds=now)).source is source


async def test_a_question_in_flight_is_shared_however_long_it_takes(engine: AsyncEngine) -> None:
    await ask(engine, reuse_seconds=0)
    await rows(engine, "UPDATE answers SET created_at = created_at - interval '1 hour' RETURNING id")
    assert (await ask(engine, reuse_seconds=0)).source is Source.COALESCED


@pytest.mark.parametrize(
    ("finish_reason", "source"),
    [
        (FinishReason.STOP, Source.CACHED),
        (FinishReason.OUTPUT_LIMIT, Source.CACHED),
        (FinishReason.TIME_LIMIT, Source.NEW),
        (FinishReason.CONTENT_FILTER, Source.NEW),
    ],
)
async def test_what_time_or_a_filter_cut_is_not_reused(
    engine: AsyncEngine, finish_reason: FinishReason, source: Source
) -> None:
    await ask(engine)
    state = State.COMPLETED if finish_reason is FinishReason.STOP else State.INCOMPLETE
    await answer(engine, GenerationResult(state, "bec", finish_reason, written_by=MODEL))
    assert (await ask(engine)).source is source


async def test_a_worker_of_the_former_release_answers_new_questions_once_each(engine: AsyncEngine) -> None:
    """It generates by its own settings, whatever the request says, and cannot say who wrote."""
    first = await ask(engine)
    assert (await ask(engine)).source is Source.COALESCED
    assert await former_release.answer(engine, await worker(engine), "by other settings") == "why?"
    assert (await seen(engine, first.question_id)).text == "by other settings"

    again = await ask(engine)

    assert again.source is Source.NEW
    await answer(engine, completed("because"))
    assert (await seen(engine, again.question_id)).text == "because"
    assert (await ask(engine)).source is Source.CACHED


async def test_a_question_of_the_former_release_is_answered_and_not_reused(engine: AsyncEngine) -> None:
    """Its key is made of the settings of the process that asked, the answer by those of the worker."""
    assert await former_release.ask(engine, "why?") is None
    claimed = await claim_one(engine, await worker(engine))
    assert (claimed.request, claimed.question_text) == (None, "why?")
    assert await finish(engine, claimed, completed("because"), 3_600)

    assert await former_release.ask(engine, "why?") is None
    assert await former_release.answer(engine, await worker(engine), "as before") == "why?"
    assert await former_release.ask(engine, "why?") == "as before"


async def test_a_claim_brings_the_request_and_looks_nothing_up(engine: AsyncEngine) -> None:
    wanted = question("why?")
    await accept(engine, wanted)
    claimed = await claim_one(engine, await worker(engine))
    assert (claimed.request, claimed.question_text) == (wanted.request, None)
    assert asked(claimed) == "why?"


async def test_a_request_is_stored_as_it_is_and_beside_the_row_if_it_is_large(engine: AsyncEngine) -> None:
    large = bytes(range(256)) * 1_000
    await ask(engine, request=large)
    ((stored, size),) = await rows(engine, "SELECT request, pg_column_size(request) FROM answers")
    assert stored == large
    assert size == len(large)  # not compressed
    assert (await claim_one(engine, await worker(engine))).request == large


@pytest.mark.parametrize("model", ["small", "org/model:8b@q4", "модель", "a b"])
@pytest.mark.parametrize("revision", ["", "2", "v1.2-rc_3"])
def test_an_identity_holds_the_id(model: str, revision: str) -> None:
    assert model_id(identity(model, revision)) == model


def test_no_two_models_have_one_identity() -> None:
    models = [("a", ""), ("a", "b"), ("a@b", ""), ("a@b", "c"), ("a@", "b"), ("a@b@c", "")]
    assert len({identity(*model) for model in models}) == len(models)
    assert identity("", "2") == UNKNOWN


async def test_what_answered_last_is_remembered_by_name(engine: AsyncEngine) -> None:
    assert await remembered(engine, "nobody asked for this") == UNKNOWN
    await remember(engine, "", identity("small", ""))
    await remember(engine, "other", identity("large", "2"))
    await remember(engine, "", identity("large", "2"))
    await remember(engine, "", identity("large\0", "2"))  # PostgreSQL's text cannot hold it
    assert await remembered(engine, "") == identity("large\N{REPLACEMENT CHARACTER}", "2")
    assert await remembered(engine, "other") == identity("large", "2")
