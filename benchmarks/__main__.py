"""``python -m benchmarks``: measure, and print each figure beside its bar."""

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks import cpu, own_rows, parts_row, queue_rows, rows, vllm_row
from benchmarks.chart import chart
from benchmarks.conditions import conditions
from benchmarks.figures import BenchmarkRow, Figure, cpu_table, number, table
from benchmarks.stage import Stage
from benchmarks.stores import MissingError

_ON_STAGE: dict[str, Callable[[Stage], Iterator[Figure]]] = {
    row.__name__: row
    for row in (
        rows.model_server,
        rows.one_in_flight,
        rows.sixteen_in_flight,
        rows.many_in_flight,
        rows.long_answers_waited,
        rows.long_answers_streamed,
        rows.same_texts,
        rows.polling,
        rows.memory,
        queue_rows.submit_alone,
        queue_rows.long_queue,
    )
}
_ON_THEIR_OWN: dict[str, Callable[[bool], Iterator[Figure]]] = {"replicas": own_rows.replicas}
_ONLY_WHEN_NAMED: dict[str, Callable[[bool], Iterator[Figure]]] = {
    "bare_parts": parts_row.bare_parts,
    "ten_million": own_rows.ten_million,
    "vllm": vllm_row.vllm,
}


def main() -> int:
    """Measure what was asked for; 1 if a bar was missed."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    usual, named = [*_ON_STAGE, *_ON_THEIR_OWN], [*_ONLY_WHEN_NAMED]
    parser.add_argument("rows", nargs="*", help=f"some of: {', '.join(usual)} (all); {', '.join(named)}")
    parser.add_argument("--stores", choices=("embedded", "debian"), default="embedded")
    parser.add_argument("--json", type=Path, help="also write the figures into this file")
    parser.add_argument("--chart", type=Path, help="also draw them into this SVG file")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and so leave nothing behind
    if unknown := set(asked.rows) - {*usual, *named}:
        parser.error(f"there is no row {', '.join(sorted(unknown))}")
    under = conditions(debian=asked.stores == "debian")
    _say(*(f"- {name}: {value}" for name, value in under.items()), "")
    try:
        measured = list(_measure(asked.rows or usual, debian=asked.stores == "debian"))
    except MissingError as error:
        parser.error(str(error))
    _say("", *table(measured), "", *cpu_table(measured))
    if asked.json:
        told = {"conditions": under, "rows": [row.as_json() for row in measured]}
        asked.json.write_text(json.dumps(told, indent=1) + "\n")
    if asked.chart:
        asked.chart.write_text(chart(measured, under))
    return 0 if all(row.is_met for row in measured) else 1


def _measure(names: Iterable[str], *, debian: bool) -> Iterator[BenchmarkRow]:
    own = _ON_THEIR_OWN | _ONLY_WHEN_NAMED
    with ExitStack() as stack:
        stage: Stage | None = None
        for name in [name for name in _ON_STAGE if name in names]:
            stage = stage or stack.enter_context(Stage(debian=debian))
            yield _row(name, _ON_STAGE[name].__doc__, partial(_ON_STAGE[name], stage))
    for name in [name for name in own if name in names]:
        yield _row(name, own[name].__doc__, partial(own[name], debian))


def _row(name: str, about: str | None, measure: Callable[[], Iterator[Figure]]) -> BenchmarkRow:
    _say(f"{name}: {about}")
    began, used = time.monotonic(), _used()
    figures: list[Figure] = []
    error, others = "", 0.0
    try:
        for figure in measure():
            figures.append(figure)
            _say(f"  {figure.what}: {number(figure.value)} {figure.unit}")
            # Before what was measured ends: vLLM does not wait for its engine's end, whose time would be nobody's then.
            everything, ours = (after - before for after, before in zip(_used(), used, strict=True))
            others = max(everything - ours, 0) / (time.monotonic() - began)
    except Exception as failure:  # noqa: BLE001 - the other rows are measured all the same
        traceback.print_exc()
        error = (str(failure) or type(failure).__name__).splitlines()[0]
    seconds = time.monotonic() - began
    _say(f"  ({seconds:.0f} s)")
    return BenchmarkRow(name, figures, seconds, others, error)


def _used() -> tuple[float, float]:
    """CPU seconds so far: of everything, and of this process with all that it started."""
    return cpu.all_seconds(), sum(cpu.seconds([os.getpid()]).values())


def _say(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)  # noqa: T201 - this is what the command is for


if __name__ == "__main__":
    sys.exit(main())
