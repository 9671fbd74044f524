"""What became of every question, and whether that is what was promised."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.chaos.audit import Row
from tests.chaos.crowd import Crowd, Question
from tests.chaos.model_server import Asked
from tests.fakes.script import expected_answer, question_of

# What a fault has begun can take effect a little after it is over: the replies that were under way.
_AFTERMATH_SECONDS = 2.0
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Window:
    """A fault, from its beginning to its end, in seconds since 1970."""

    begin: float
    end: float


@dataclass
class Verdict:
    """The counts of the report, and every broken promise in words."""

    questions: int = 0
    lost: int = 0
    """Acknowledged, and without a final answer, or unknown."""
    wrong: int = 0
    """With another final state or text than its question should have."""
    asked_again: int = 0
    """Sent to the model more than once, each time by a claim of its own."""
    generated_twice: int = 0
    """Written to its end by the model more than once."""
    slowest_recovery: float | None = None
    """Most seconds from a fault's beginning to the answer of a question that had been accepted before it."""
    slowest_resumption: float | None = None
    """Most seconds from a fault's beginning until a question that it hit was sent to the model again."""
    slowest_return: float | None = None
    """The same, from the fault's end."""
    problems: list[str] = field(default_factory=list)


def judge(
    crowd: Crowd,
    rows: Sequence[Row],
    read_again: Mapping[int, Mapping[str, Any]],
    asked: Mapping[str, Asked],
    windows: Sequence[Window],
    *,
    ends: Mapping[str, tuple[str, str | None]],
    loses_generations: bool,
) -> Verdict:
    """Look at every question.

    ``ends``: state and error reason of texts that must not be answered as usual, and may be sent to the model again.
    ``loses_generations``: so may all others that a fault hit.
    """
    verdict = Verdict(questions=len(crowd.questions))
    problems: dict[str, list[str]] = defaultdict(list)
    by_id = {row.id: row for row in rows}
    by_text: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_text[row.question].append(row)
    for question in crowd.questions:
        found = by_id.get(question.id or 0)
        if found is None or question.final is None:
            verdict.lost += 1
            problems["lost"].append(f"{question.id} {question.text}: {found}")
            continue
        wrong = _wrongs(question, found, ends.get(question.text), read_again.get(found.id))
        verdict.wrong += bool(wrong)
        for wrongness in wrong:
            problems[wrongness].append(f"{question.final} {found}")

    users: dict[str, list[Question]] = defaultdict(list)
    for question in crowd.questions:
        users[question.text].append(question)
    resumptions: list[float] = []
    returns: list[float] = []
    for text, theirs in users.items():
        answers = {row.answer_id: row for row in by_text[text]}
        requests = asked.get(question_of(text), Asked())
        count = len(requests.begun)
        verdict.asked_again += count > 1
        verdict.generated_twice += requests.completed > 1
        told = f"{count} requests, {requests.completed} completed; {sorted(answers.values(), key=lambda r: r.id)}"
        if text not in ends:
            resumptions += _since(requests.begun, [window.begin for window in windows])
            returns += _since(requests.begun, [window.end for window in windows])
        if len(by_text[text]) != len(theirs):
            problems["is stored more or less often than it was asked"].append(told)
        if len(answers) > 1:
            problems["has more than one answer, though one could be shared"].append(told)
        if count > sum(row.attempt for row in answers.values()):
            problems["was sent to the model more often than it was claimed"].append(told)
        if count == 0:
            problems["was never sent to the model"].append(told)
        was_hit = loses_generations and any(_was_hit(question, by_id, windows) for question in theirs)
        if count > 1 and not was_hit and text not in ends:
            problems["was sent to the model again, though no fault hit it"].append(told)

    verdict.slowest_resumption = max(resumptions, default=None)
    verdict.slowest_return = max(returns, default=None)
    verdict.slowest_recovery = _slowest_recovery(crowd.questions, by_id, windows)
    if crowd.surprises:
        problems["the API gave replies that it never should"].append(str(dict(crowd.surprises)))
    verdict.problems = [
        f"{len(cases)} times: {problem}:\n    " + "\n    ".join(cases[:_SHOWN]) for problem, cases in problems.items()
    ]
    return verdict


def _wrongs(
    question: Question, row: Row, end: tuple[str, str | None] | None, read_again: Mapping[str, Any] | None
) -> list[str]:
    assert question.final is not None
    wrong = []
    if end is not None:
        if (row.state, row.error_reason) != end:
            wrong.append(f"it did not end as {end}")
    elif question.final["status"] != "completed" or question.final["answer_text"] != expected_answer(question.text):
        wrong.append("the user read a wrong answer")
    if row.state != question.final["status"] or (row.text is not None and row.text != question.final["answer_text"]):
        wrong.append("the row is not what the user read")
    if read_again != question.final:
        wrong.append(f"a final answer changed: it is {read_again}")
    if row.finals != 1 or row.changes is not None:
        wrong.append("the row became final more than once, or changed afterwards")
    return wrong


def _was_hit(question: Question, rows: Mapping[int, Row], windows: Sequence[Window]) -> bool:
    row = rows.get(question.id or 0)
    if row is None or row.finished_at is None:
        return True
    return any(
        question.asked_at <= window.end + _AFTERMATH_SECONDS and window.begin <= row.finished_at for window in windows
    )


def _slowest_recovery(
    questions: Sequence[Question], rows: Mapping[int, Row], windows: Sequence[Window]
) -> float | None:
    """Each question counts from the last fault that began while it was open."""
    recoveries = []
    for question in questions:
        row = rows.get(question.id or 0)
        if row is not None and row.finished_at is not None:
            hits = [w.begin for w in windows if question.asked_at <= w.begin <= row.finished_at]
            recoveries += [row.finished_at - max(hits)] if hits else []
    return max(recoveries, default=None)


def _since(begun: Sequence[float], moments: Sequence[float]) -> list[float]:
    """For each request after the first: the time since the last of the moments after the request before it."""
    found = []
    for before, again in pairwise(begun):
        hits = [moment for moment in moments if before <= moment <= again]
        found += [again - max(hits)] if hits else []
    return found
