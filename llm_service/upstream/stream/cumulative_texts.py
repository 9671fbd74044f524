"""Servers whose every chunk repeats the whole text so far, in place of a delta."""

from typing import Final

_FEW: Final = 4
"""Characters that two different deltas may begin with by chance, as blanks and digits do."""


class CumulativeTextDetector:
    """Turns the texts of chunks into what each adds.

    DashScope's plans for coding, and thinking models of Gemini behind gateways, send cumulative texts
    (QwenLM/qwen-code#3896). The first three texts show it: each begins with the one before and is longer. A second text
    that does so is kept back until the third comes. An answer of two such texts counts as cumulative if the first has
    four characters or more.
    """

    def __init__(self) -> None:
        self.is_settled = False
        """Whether the deltas are deltas, so that each text is what it adds."""
        self._is_cumulative = False
        self._first = ""
        self._second = ""
        self._whole = ""  # the last cumulative text

    def add(self, text: str) -> str:
        """What the text of a chunk adds, as far as that is known."""
        if self.is_settled or not text:
            return text
        if self._is_cumulative:
            if not text.startswith(self._whole):
                return text
            added, self._whole = text[len(self._whole) :], text
            return added
        if not self._first:
            self._first = text
            return text
        if not self._second and _extends(text, self._first):
            self._second = text
            return ""
        if self._second and _extends(text, self._second):
            self._is_cumulative = True
            self._whole = text
            return text[len(self._first) :]
        self.is_settled = True
        text, self._first, self._second = self._second + text, "", ""
        return text

    def end(self) -> str:
        """What was kept back, when nothing follows."""
        if self.is_settled or self._is_cumulative or not self._second:
            return ""
        self.is_settled = True
        return self._second[len(self._first) :] if len(self._first) >= _FEW else self._second


def _extends(text: str, before: str) -> bool:
    # Lines and blanks grow so by themselves: "=", "==", "====".
    return len(text) > len(before) and text.startswith(before) and len(set(text)) > 1
