"""Keeps the mesh's processes running, and stops them in the opposite order."""

import math
import time
from collections.abc import Callable, Sequence

from embedded.errors import EmbeddedError
from embedded.orphans import Register
from embedded.processes import POLL_SECONDS, Child, Program, trim_log
from embedded.stop_requests import StopRequested, StopRequests

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
# A child that has been ready for so long has recovered: its next restart is quick again.
SETTLED_SECONDS = 60.0
# Tiers stop half a second apart. One after the other, their drain times would add up.
HEAD_START_SECONDS = 0.5
_LOG_CHECK_SECONDS = 60.0
# A program that ends within this time is not mentioned.
_SILENT_SECONDS = 2.0


class _SupervisedProgram:
    """A program, its child if there is one, and when the next is due."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.child: Child | None = None
        self.ready_since: float | None = None
        self.was_ready = False
        self.restart_at = 0.0
        self.delay = FIRST_DELAY_SECONDS

    def start(self) -> None:
        self.child = Child(self.program)
        self.ready_since = None

    def note_ready(self) -> None:
        self.ready_since = time.monotonic()
        self.was_ready = True

    def schedule_restart(self) -> float:
        """Forget the child; return the seconds until the next."""
        if self.ready_since is not None and time.monotonic() - self.ready_since > SETTLED_SECONDS:
            self.delay = FIRST_DELAY_SECONDS
        self.child, self.ready_since, delay = None, None, self.delay
        self.restart_at = time.monotonic() + delay
        self.delay = min(self.delay * 2, LONGEST_DELAY_SECONDS)
        return delay


class _Shutdown:
    """Children that were asked to stop, and when each is killed for not having done so."""

    def __init__(self, requests: StopRequests, say: Callable[[str], None]) -> None:
        self._requests = requests
        self._patience = requests.count
        self._say = say
        self._deadlines: dict[Child, float] = {}

    def ask(self, child: Child) -> None:
        child.ask_to_stop()
        self._deadlines[child] = time.monotonic() + child.program.stop_seconds

    def wait(self, seconds: float = math.inf) -> None:
        """Return when all of them have gone, or after so many seconds."""
        until = time.monotonic() + seconds
        while (alive := self._alive()) and time.monotonic() < until:
            hurried = self._requests.count > self._patience
            for child, deadline in alive.items():
                if time.monotonic() > deadline or (hurried and not child.program.outlives):
                    self._say(f"{child.program.name:<18} did not stop in time: killed")
                    child.kill()
            self._requests.wait(min(until, *alive.values()) - time.monotonic())

    def _alive(self) -> dict[Child, float]:
        return {child: deadline for child, deadline in self._deadlines.items() if not child.has_ended()}


class Supervisor:
    """Keeps programs running. Single-threaded: it acts only inside its methods."""

    def __init__(self, requests: StopRequests, register: Register, say: Callable[[str], None]) -> None:
        self._requests = requests
        self._register = register
        self._say = say
        self._tiers: list[list[_SupervisedProgram]] = []
        self._passing: list[Child] = []

    def launch(self, *tiers: Sequence[Program]) -> None:
        """Start all of them at once. Tiers are stopped in the opposite order."""
        for programs in tiers:
            tier = [_SupervisedProgram(program) for program in programs]
            self._tiers.append(tier)
            for entry in tier:
                self._start(entry)

    def wait(self) -> None:
        """Return when all that was launched is ready.

        Raises EmbeddedError if a child ends, or is late, before it was ready for the first time; and StopRequested.
        """
        while self._check_children():
            self._pause()

    def run(self, program: Program) -> None:
        """Run a program to its end, and say what its log says if that takes long.

        Raises EmbeddedError unless it succeeds, and as ``wait`` does.
        """
        child = Child(program)
        self._passing.append(child)
        self._record()
        said = child.last_log_line()
        while not child.has_ended():
            self._check_children()
            self._pause()
            if time.monotonic() > child.started + _SILENT_SECONDS and (words := child.last_log_line()) != said:
                said = words
                self._say(f"{program.name:<18} {words}")
        self._passing.remove(child)
        self._record()
        if child.process.returncode != 0:
            raise _failure(child, child.how_it_ended())

    def watch(self) -> None:
        """Start again whatever ends, until a stop is requested."""
        logs_due = time.monotonic() + _LOG_CHECK_SECONDS
        while not self._requests.count:
            busy = self._check_children()
            if time.monotonic() > logs_due:
                logs_due = time.monotonic() + _LOG_CHECK_SECONDS
                for entry in self._all():
                    trim_log(entry.program.log)
            self._requests.wait(POLL_SECONDS if busy else _LOG_CHECK_SECONDS)

    def stop(self) -> None:
        """Stop everything, last started first. A further stop request ends the services at once."""
        shutdown = _Shutdown(self._requests, self._say)
        for child in self._passing:
            shutdown.ask(child)
        for tier in reversed(self._tiers):
            for entry in reversed(tier):
                if entry.child and entry.program.outlives:
                    shutdown.wait()
                if entry.child:
                    shutdown.ask(entry.child)
            shutdown.wait(HEAD_START_SECONDS)
        shutdown.wait()
        self._register.clear()

    def _all(self) -> list[_SupervisedProgram]:
        return [entry for tier in self._tiers for entry in tier]

    def _start(self, entry: _SupervisedProgram) -> None:
        entry.start()
        self._record()

    def _record(self) -> None:
        self._register.write([*(entry.child for entry in self._all() if entry.child), *self._passing])

    def _pause(self) -> None:
        self._requests.wait(POLL_SECONDS)
        if self._requests.count:
            raise StopRequested

    def _check_children(self) -> bool:
        """Start again what has ended; return whether any child is not ready yet."""
        for entry in self._all():
            if entry.child is None:
                if time.monotonic() >= entry.restart_at:
                    self._start(entry)
            elif entry.child.has_ended():
                self._handle_exit(entry, entry.child, entry.child.how_it_ended())
            elif entry.ready_since is None and entry.child.is_late():
                entry.child.kill()
                self._handle_exit(entry, entry.child, f"is not ready after {entry.program.start_seconds:g} s")
            elif entry.ready_since is None and entry.child.is_ready():
                again = "again " if entry.was_ready else ""
                self._say(f"{entry.program.name:<18} ready {again}after {time.monotonic() - entry.child.started:.1f} s")
                entry.note_ready()
        return any(entry.ready_since is None for entry in self._all())

    def _handle_exit(self, entry: _SupervisedProgram, child: Child, how: str) -> None:
        if not entry.was_ready:
            raise _failure(child, how)
        self._say(f"{entry.program.name:<18} {how}: starting it again in {entry.schedule_restart():g} s")


def _failure(child: Child, how: str) -> EmbeddedError:
    return EmbeddedError(f"{child.program.name} {how}: {child.last_log_line()} ({child.program.log})")
