"""The table of what was broken and what became of the questions."""

from collections.abc import Sequence

from tests.chaos.scenarios import Outcome

HEAD = ("scenario", "faults", "questions", "lost", "wrong", "asked again", "generated twice", "slowest recovery")


def as_markdown(outcomes: Sequence[Outcome]) -> str:
    """One row a scenario, and the sum."""
    rows = [HEAD, tuple("---" if column == 0 else "---:" for column in range(len(HEAD)))]
    for outcome in outcomes:
        verdict = outcome.verdict
        recovery = "" if verdict.slowest_recovery is None else f"{verdict.slowest_recovery:.1f} s"
        counts = (outcome.faults, verdict.questions, verdict.lost, verdict.wrong)
        rows.append((outcome.scenario, *map(str, (*counts, verdict.asked_again, verdict.generated_twice)), recovery))
    sums = [sum(int(row[column]) for row in rows[2:]) for column in range(1, 7)]
    rows.append(("all", *map(str, sums), ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return "".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |\n" for row in rows
    )
