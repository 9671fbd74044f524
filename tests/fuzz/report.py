"""The table of what was sent and what was wrong with the answers."""

from collections import Counter, defaultdict

HEAD = ("operation", "cases", "answers", "failures")


class Report:
    """Counts cases, and the kinds of answers, by operation."""

    def __init__(self) -> None:
        self._answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._failures: Counter[str] = Counter()

    def count(self, operation: str, answer: str) -> None:
        """A case, and the status it was answered with."""
        self._answers[operation][answer] += 1

    def fail(self, operation: str) -> None:
        """A case that was counted met a failure."""
        self._failures[operation] += 1

    @property
    def failures(self) -> int:
        """Of all operations."""
        return self._failures.total()

    def as_markdown(self) -> str:
        """One row an operation, and the sum; empty where nothing was sent."""
        if not self._answers:
            return ""
        rows = [HEAD, ("---", "---:", "---", "---:")]
        for operation, answers in self._answers.items():
            told = ", ".join(f"{answer}: {count:,}" for answer, count in sorted(answers.items()))
            rows.append((operation, f"{answers.total():,}", told, f"{self._failures[operation]:,}"))
        cases = sum(answers.total() for answers in self._answers.values())
        rows.append(("all", f"{cases:,}", "", f"{self.failures:,}"))
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)
