"""The text of one answer while it is written, and how much of it Redis has."""

import asyncio
from enum import Enum, auto

from live.answer_stream import RunningUsage, StoredText
from questions.claims import Claim
from questions.states import FinishReason


class CopyState(Enum):
    """What Redis is to be given of a text."""

    FOLLOWING = auto()
    """Redis has the beginning of it, and is given what follows."""
    NEW = auto()
    """Redis is given all of it, and refuses if it has text of a later claim."""
    REPLACING = auto()
    """Redis is given all of it, whatever it has: PostgreSQL has confirmed the claim."""
    REFUSED = auto()
    """Redis has lost or refused it, and is given nothing until PostgreSQL has confirmed the claim."""


class RedisCopy:
    """How much of a text Redis has acknowledged, and when it is given more."""

    def __init__(self, length: int) -> None:
        self.state = CopyState.FOLLOWING
        self.length = length
        """Bytes."""
        self.has_finish = False
        self.has_writer = True
        self.due_at = 0.0
        self.settled = asyncio.Event()
        """Set when Redis lacks nothing any more, or is given nothing for now."""

    @property
    def wants_whole(self) -> bool:
        """Whether Redis is to be given all of the text, and not only what follows."""
        return self.state is CopyState.NEW or self.state is CopyState.REPLACING


class AnswerText:
    """The text of one answer under one claim.

    What is released never ends in white space, which is held back until something follows it: a chat template trims
    the text that a continuation begins with, so that it would not fit.
    """

    def __init__(self, claim: Claim, opened: StoredText | None = None) -> None:
        opened = opened or StoredText("", RunningUsage(), None)
        self.claim = claim
        self.epoch = claim.epoch
        self.usage = opened.usage
        self.finish = opened.finish
        self.writer = opened.writer
        """The identity of the model that has written it; None: not known, or nothing is written."""
        self.released = bytearray(opened.text.encode())
        self.held: list[str] = []
        """White space that waits for something to follow."""
        self.copy = RedisCopy(len(self.released))

    def __str__(self) -> str:
        return self.released.decode() + "".join(self.held)

    @property
    def length(self) -> int:
        """Bytes that there are, also those that are held back."""
        return len(self.released) + len("".join(self.held).encode())

    @property
    def is_pending(self) -> bool:
        """Whether Redis lacks something that it may be given now."""
        copy = self.copy
        if copy.state is CopyState.FOLLOWING:
            return len(self.released) > copy.length or (self.finish is not None and not copy.has_finish)
        return copy.state is not CopyState.REFUSED

    def add(self, more: str) -> None:
        """Release it but for white space at its end."""
        if visible := more.rstrip():
            self.released += "".join((*self.held, visible)).encode()
            self.held.clear()
        if len(visible) < len(more):
            self.held.append(more[len(visible) :])

    def end(self, finish: FinishReason) -> None:
        """Release what is held back: nothing will follow."""
        self.released += "".join(self.held).encode()
        self.held.clear()
        self.finish = finish

    def begins_by(self, writer: str | None) -> None:
        """Who writes what follows, before any of it is added."""
        self.writer = writer
        self.copy.has_writer = False

    def begin_anew(self, epoch: int) -> None:
        """Take back what there is, under an epoch that PostgreSQL has just given."""
        self.epoch = epoch
        self.writer = None
        self.usage = self.usage.of_text_taken_back()
        self.finish = None
        self.released.clear()
        self.held.clear()
        self.copy.length = 0
        self.copy.state = CopyState.REPLACING
