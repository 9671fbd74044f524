"""How many tokens an answer has taken: one value for the model server's counts, wherever they are kept or sent.

The fields of ``TokenCounts`` are columns of ``answers`` and of the ledger, by the same names. A further count is a
field here, a column there, a field of what REST replies, and the line of worker_service that reads it from llm_service.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Final, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """Tokens of one answer, over all its attempts. None where the model server does not say.

    ``cached_prompt_tokens`` are among the prompt's. ``repeated_tokens`` are those beyond what an uninterrupted
    generation would have taken: the question and the text that a continuation read again, and what was read and written
    of text that was taken back. They are in no other count.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_prompt_tokens: int | None = None
    repeated_tokens: int = 0

    @classmethod
    def parse(cls, stored: object) -> Self:
        """The counts in what some release has stored. What this one does not know, or what is no count, is left out."""
        if not isinstance(stored, dict):
            return cls()
        known = {field.name: stored.get(field.name) for field in fields(cls)}
        return cls(**{name: count for name, count in known.items() if type(count) is int and count >= 0})

    @classmethod
    def pop_from(cls, row: dict[str, Any]) -> Self:
        """The counts in a row, which are taken out of it. NULL is not known."""
        counts = {name: row.pop(name) for name in TOKEN_COLUMNS}
        return cls(**{name: count for name, count in counts.items() if count is not None})

    @property
    def written_tokens(self) -> int:
        """Tokens of the text."""
        return self.completion_tokens or 0

    @property
    def total_tokens(self) -> int:
        """All that the model server has read and written."""
        return (self.prompt_tokens or 0) + self.written_tokens + self.repeated_tokens

    def by_column(self) -> dict[str, Any]:
        """Each count by its column."""
        return {name: getattr(self, name) for name in TOKEN_COLUMNS}

    def continued_by(self, call: Self) -> Self:
        """The counts with those of a call that goes on from here: all that it has read was read before."""
        return replace(
            call,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.written_tokens + call.written_tokens,
            cached_prompt_tokens=self.cached_prompt_tokens,
            repeated_tokens=self.repeated_tokens + (call.prompt_tokens or 0),
        )


NO_TOKENS: Final = TokenCounts()
TOKEN_COLUMNS: Final = tuple(field.name for field in fields(TokenCounts))


def each_count(sql: str) -> str:
    """SQL for every count, with commas between. ``{0}`` stands for the column: ``each_count("a.{0}")``."""
    return ", ".join(sql.format(name) for name in TOKEN_COLUMNS)
