"""Picks the choice of a chunk that is read. Requests ask for one, so there should be one, with the index 0."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

_NO_CHOICES: Final = ("delta", "message")


class ChoicePicker:
    """Picks the choices that make up the answer: those of the index 0, or of the first that comes.

    Some servers count chunks in the index (huggingface/text-generation-inference#1648, microsoft/foundry-local#263). A
    choice whose index is one more than the first one's is therefore kept back until the next shows what the index is:
    a count of chunks, or another choice.
    """

    def __init__(self) -> None:
        self.index: int | None = None
        """Of the choices that are read; None before the first."""
        self._counts_chunks = False
        self._kept: Mapping[str, Any] | None = None

    def pick(self, chunk: Mapping[str, Any], *, is_begun: bool) -> Sequence[Mapping[str, Any]]:
        """The choices to read now. ``is_begun``: so much text has come that indexes are known for what they are."""
        found = _choices_in(chunk)
        if not found:
            return ()
        choice = found[0]
        if len(found) > 1:
            choice = next((one for one in found if one.get("index") == (self.index or 0)), choice)
        index = choice.get("index")
        if self._counts_chunks or not isinstance(index, int):
            return (choice,)
        if self.index is None:
            self.index = index
        kept, self._kept = self._kept, None
        if index == self.index:
            return (choice,)
        if is_begun or len(found) > 1:
            return ()
        if kept is not None and index == self.index + 2:
            self._counts_chunks = True
            return (kept, choice)
        if kept is None and index == self.index + 1:
            self._kept = choice
        return ()

    def end(self) -> Sequence[Mapping[str, Any]]:
        """What was kept back, when nothing follows."""
        kept, self._kept = self._kept, None
        return () if kept is None else (kept,)


def _choices_in(chunk: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    choices = chunk.get("choices")
    if choices is None and any(isinstance(chunk.get(key), Mapping) for key in _NO_CHOICES):
        choices = chunk  # of Ollama's own API
    return [choice for choice in (choices if isinstance(choices, list) else [choices]) if isinstance(choice, Mapping)]
