import json
from xml.etree import ElementTree as ET

import pytest

from benchmarks import cpu
from benchmarks.chart import chart
from benchmarks.explain import as_markdown, parse
from benchmarks.figures import BenchmarkRow, Figure, cpu_table, number, table
from benchmarks.load import Events
from benchmarks.measured import Measured, added, middle, percentile


@pytest.mark.parametrize(
    ("which", "expected"),
    [(50, 50), (99, 99), (100, 100), (0.1, 1), (1, 1), (1.1, 2)],
)
def test_percentile_is_the_nearest_rank(which: float, expected: float) -> None:
    assert percentile(list(range(100, 0, -1)), which) == expected


def test_percentile_of_one_value() -> None:
    assert percentile([7.0], 99) == 7.0


def _load(seconds: float, **cpu_seconds: float) -> Measured:
    return Measured(count=10, seconds=seconds, latencies=[seconds], first_tokens=[], cpu=cpu_seconds)


def test_middle_of_loads_has_their_median_rate_and_mean_cost() -> None:
    seen = middle([_load(1, api_service=0.2, load=1), _load(2, api_service=0.4, load=1), _load(9, PostgreSQL=0.3)])
    assert seen.rate == 5
    assert seen.latencies == [1, 2, 9]
    assert seen.cpu_each == pytest.approx({"api_service": 20, "PostgreSQL": 10, "load": 200 / 3})


def test_what_measures_is_no_part_of_what_the_mesh_costs() -> None:
    used = {"api_service": 0.1, "worker_service": 0.2, "load": 3, "fake model": 5, "benchmark": 7}
    assert _load(1, **used).mesh_cpu_each == pytest.approx(30)


def test_added_is_between_medians_in_milliseconds() -> None:
    assert added([0.3, 0.2, 9], [0.1, 0.1, 5]) == pytest.approx(200)


@pytest.mark.parametrize(
    ("value", "at_most", "met", "reached"),
    [(8, True, True, 1), (4, True, True, 2), (16, True, False, 0.5), (16, False, True, 2), (4, False, False, 0.5)],
)
def test_bars(value: float, at_most: bool, met: bool, reached: float) -> None:
    figure = Figure("row", "what", value, bar=8, at_most=at_most)
    assert figure.is_met is met
    assert figure.reached == reached


def test_figure_without_a_bar_only_tells() -> None:
    assert Figure("row", "what", 5).is_met
    assert Figure("row", "what", 5).reached is None


def test_a_bar_of_nothing_is_missed_by_anything() -> None:
    assert Figure("row", "scans", 0, bar=0).is_met
    assert not Figure("row", "scans", 1, bar=0).is_met


def test_row_that_broke_off_is_missed_and_told() -> None:
    row = BenchmarkRow("polling", [Figure("poll", "CPU", 1, bar=2)], seconds=1, others=0, error="polled: 503")
    assert not row.is_met
    assert "| polling | not measured | | | **missed** | polled: 503 |" in table([row])


ROWS = [
    BenchmarkRow(
        "many",
        [
            Figure(
                "256 in flight", "CPU a question", 6.5, "ms", 8, cpu={"api_service": 4, "PostgreSQL": 2.5, "load": 1}
            ),
            Figure("256 in flight", "rate, of the direct rate", 0.4, "", 0.45, at_most=False, detail="130 of 325"),
        ],
        seconds=10,
        others=0.25,
    )
]


def test_tables() -> None:
    assert list(table(ROWS))[2:] == [
        "| 256 in flight | CPU a question | 6.5 ms | at most 8 | met |  |",
        "| 256 in flight | rate, of the direct rate | 0.4 | at least 0.45 | **missed** | 130 of 325 |",
    ]
    header, _, line = cpu_table(ROWS)
    assert header == "| row | CPU ms a request, for | mesh | api_service | PostgreSQL | load | other work, cores |"
    assert line == "| 256 in flight | CPU a question | 6.50 | 4.00 | 2.50 | 1.00 | 0.25 |"


def test_json_says_what_is_met() -> None:
    told = json.loads(json.dumps(ROWS[0].as_json()))
    assert told["others_cores"] == 0.25
    assert [(one["what"], one["met"]) for one in told["figures"]] == [
        ("CPU a question", True),
        ("rate, of the direct rate", False),
    ]


def test_chart_is_well_formed_and_names_every_figure() -> None:
    drawn = ET.fromstring(chart(ROWS, {"date": "today", "machine": "2 cores <&>"}))
    words = " ".join(text.text or "" for text in drawn.iter("{http://www.w3.org/2000/svg}text"))
    assert "256 in flight: CPU a question 6.5 ms (≤ 8)" in words
    assert "256 in flight: rate, of the direct rate 0.4 (≥ 0.45)" in words
    assert "2 cores <&>" in words


@pytest.mark.parametrize(
    ("value", "told"), [(50, "50"), (1234.5, "1,234"), (0.123456, "0.123"), (17.04, "17"), (0.01234, "0.012"), (0, "0")]
)
def test_number(value: float, told: str) -> None:
    assert number(value) == told


def test_events_may_be_cut_anywhere() -> None:
    stream = b': hello\n\nevent: delta\ndata: {"text": "a"}\n\nid: 1\nevent: completed\ndata: {}\n\n'
    for size in range(1, len(stream)):
        events = Events()
        found = [event for at in range(0, len(stream), size) for event in events.feed(stream[at : at + size])]
        assert found == [(b"delta", b'{"text": "a"}'), (b"completed", b"{}")]


def test_cpu_of_this_process_and_its_children_is_told_apart() -> None:
    assert cpu.difference({"a": 3, "b": 1}, {"a": 1}) == {"a": 2, "b": 1}


def test_plans_are_read_from_postgresqls_log() -> None:
    log = "\n".join(
        json.dumps(entry)
        for entry in (
            {"message": "checkpoint starting: time"},
            {
                "application_name": "worker_service",
                "message": "duration: 0.250 ms  plan:\nQuery Text: \n    UPDATE workers\n    SET lease_until = now()\n"
                "Update on workers  (cost=0.15..8.18 rows=1 width=14) (actual time=0.1..0.1 rows=1 loops=1)\n"
                "  Buffers: shared hit=3",
            },
            {
                "application_name": "worker_service",
                "message": "duration: 1.0 ms  plan:\nQuery Text: SELECT 1 FROM "
                "pg_catalog.pg_type\nResult  (cost=0.00..0.01 rows=1 width=4)",
            },
        )
    )
    (statement,) = parse(log)
    assert statement.kind == "Renewal of the lease"
    assert statement.words == "UPDATE workers\nSET lease_until = now()"
    assert statement.plan.startswith("Update on workers  (cost=")
    assert list(as_markdown([statement], ["# Plans"]))[:5] == [
        "# Plans",
        "",
        "## Renewal of the lease",
        "",
        "worker_service, 1 times.",
    ]
