"""The figures as a picture: how near each is to its bar, and where the CPU time of a question goes."""

from collections.abc import Iterator, Mapping, Sequence
from xml.sax.saxutils import escape

from benchmarks import cpu
from benchmarks.figures import BenchmarkRow, Figure, number

_WIDTH, _LEFT, _RIGHT = 960, 330, 190
_LINE = 22
_MET, _MISSED, _INK, _FAINT = "#2a7f62", "#c2452d", "#1f2328", "#d0d7de"
_COLOURS = {
    "api_service": "#4269d0",
    "PostgreSQL": "#efb118",
    "RabbitMQ": "#ff725c",
    "Redis": "#a463f2",
    "worker_service": "#3ca951",
    "llm_service": "#6cc5b0",
}
_MOST = 2.0
"""Where a bar of the chart ends: at twice what is asked for."""


def chart(rows: Sequence[BenchmarkRow], conditions: Mapping[str, str]) -> str:
    """An SVG document. It has a background of its own, because pages in the dark show it too."""
    figures = [one for row in rows for one in row.figures if one.bar]
    asked = [one for row in rows for one in row.figures if one.cpu and one.what.startswith("CPU a")]
    body: list[str] = []
    y = _title(body, 30, "How far beyond its bar", f"{conditions['date']}, {conditions['machine']}")
    y = _reached(body, y + 20, figures)
    if asked:
        y = _title(
            body, y + 40, "CPU of the mesh by process, ms", "a request: a question answered or submitted, or a poll"
        )
        y = _shares(body, y + 20, asked)
    height = y + 20
    size = f'width="{_WIDTH}" height="{height}"'
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" {size} fill="{_INK}"'
    font = ' font-family="system-ui, sans-serif">'
    return "\n".join([begin + font, f'<rect {size} fill="#ffffff"/>', *body, "</svg>\n"])


def _title(body: list[str], y: int, title: str, below: str) -> int:
    body.append(_text(20, y, title, size=17, weight="bold"))
    body.append(_text(20, y + 18, below, colour="#59636e"))
    return y + 18


def _reached(body: list[str], y: int, figures: Sequence[Figure]) -> int:
    scale = (_WIDTH - _LEFT - _RIGHT) / _MOST
    bottom = y + _LINE * len(figures)
    for multiple, label in ((0.5, "half"), (1, "the bar"), (2, "twice as good")):
        x = _LEFT + multiple * scale
        body.append(f'<line x1="{x}" y1="{y + 4}" x2="{x}" y2="{bottom}" stroke="{_FAINT}"/>')
        body.append(_text(x, y, label, anchor="middle", size=11, colour="#59636e"))
    for at, one in enumerate(figures):
        top = y + 6 + at * _LINE
        length = min(one.reached or 0, _MOST) * scale
        colour = _MET if one.is_met else _MISSED
        body.append(_text(_LEFT - 8, top + 12, f"{one.row}: {_short(one)}", anchor="end", size=11))
        body.append(f'<rect x="{_LEFT}" y="{top}" width="{length:.1f}" height="{_LINE - 6}" fill="{colour}"/>')
        told = f"{number(one.value)} {one.unit}".strip()
        bar = f"{'≤' if one.at_most else '≥'} {number(one.bar or 0)}"
        body.append(_text(_WIDTH - _RIGHT + 8, top + 12, f"{told} ({bar})", size=11, colour=colour))
    x = _LEFT + scale
    body.append(f'<line x1="{x}" y1="{y + 4}" x2="{x}" y2="{bottom}" stroke="{_INK}" stroke-dasharray="4 3"/>')
    return bottom


def _shares(body: list[str], y: int, figures: Sequence[Figure]) -> int:
    most = max(cpu.of_mesh(one.cpu) for one in figures)
    scale = (_WIDTH - _LEFT - 80) / most
    x = float(_LEFT)
    for name, colour in _COLOURS.items():
        if any(one.cpu.get(name, 0) >= 0.01 for one in figures):
            body.append(f'<rect x="{x}" y="{y - 10}" width="11" height="11" fill="{colour}"/>')
            body.append(_text(x + 15, y, name, size=11))
            x += 105
    for at, one in enumerate(figures):
        top = y + 8 + at * _LINE
        body.append(_text(_LEFT - 8, top + 12, one.row, anchor="end", size=11))
        x = float(_LEFT)
        for name, colour in _COLOURS.items():
            length = one.cpu.get(name, 0) * scale
            body.append(f'<rect x="{x:.1f}" y="{top}" width="{length:.1f}" height="{_LINE - 6}" fill="{colour}"/>')
            x += length
        body.append(_text(x + 6, top + 12, number(cpu.of_mesh(one.cpu)), size=11))
    return y + 8 + _LINE * len(figures)


def _short(one: Figure) -> str:
    return one.what if len(one.what) <= 34 else one.what[:33].rstrip() + "…"


def _text(
    x: float, y: float, words: str, *, size: int = 13, weight: str = "", anchor: str = "", colour: str = ""
) -> str:
    attributes = "".join(_attributes({"font-weight": weight, "text-anchor": anchor, "fill": colour}))
    return f'<text x="{x:.1f}" y="{y}" font-size="{size}"{attributes}>{escape(words)}</text>'


def _attributes(values: Mapping[str, str]) -> Iterator[str]:
    return (f' {name}="{value}"' for name, value in values.items() if value)
