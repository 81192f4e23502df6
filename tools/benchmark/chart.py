# SPDX-FileCopyrightText: The ext2cow authors
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Line charts in SVG, several to a picture, for light and dark pages.

A figure is an object of report.json: title; x and y with label, unit and log;
series with name and points; limits with label and either y or points.
"""
import math
from xml.sax.saxutils import escape

PANEL = (450, 290)
PLOT = (66, 62, 418, 240)  # left, top, right, bottom in a panel
COLUMNS = 2
HEAD = 46
STYLE = """
svg{font-family:"DejaVu Sans",Verdana,sans-serif;font-size:11px}
.page{fill:#fff}text{fill:#24292f}.dim{fill:#57606a}
.big{font-size:15px;font-weight:bold}.title{font-size:12px;font-weight:bold}
.grid{stroke:#d8dee4}.axis{stroke:#8c959f}.limit{stroke:#cf222e}
.limit,.line{fill:none}.line{stroke-width:2}
.limit{stroke-width:1.5;stroke-dasharray:5 3}
.s0{stroke:#0969da}.s1{stroke:#bc4c00}.s2{stroke:#1a7f37}.s3{stroke:#8250df}
.f0{fill:#0969da}.f1{fill:#bc4c00}.f2{fill:#1a7f37}.f3{fill:#8250df}
@media (prefers-color-scheme:dark){
.page{fill:#0d1117}text{fill:#e6edf3}.dim{fill:#9da7b3}
.grid{stroke:#2a313a}.axis{stroke:#6e7681}.limit{stroke:#ff7b72}
.s0{stroke:#58a6ff}.s1{stroke:#f0883e}.s2{stroke:#56d364}.s3{stroke:#bc8cff}
.f0{fill:#58a6ff}.f1{fill:#f0883e}.f2{fill:#56d364}.f3{fill:#bc8cff}}
"""


def number(value):
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def quantity(value, unit):
    """A value as people read it: 4 KiB, 1.5 ms, 65.5k."""
    if value == 0:
        return "0"
    if not unit:
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    if unit in ("B", "B/s"):
        step, names, first = 1024, ("B", "KiB", "MiB", "GiB", "TiB"), 0
        tail = " " + "{}" + unit[1:]
    elif unit == "s":
        step, names, first = 1000, ("ns", "us", "ms", "s"), 3
        tail = " {}"
    else:
        step, names, first, tail = 1000, ("", "k", "M", "G"), 0, "{}" + unit
    power = math.floor(math.log(abs(value), step) + 1e-9) + first
    power = min(max(power, 0), len(names) - 1)
    return number(value / step ** (power - first)) + tail.format(names[power])


def nice_step(span, count, unit):
    """1, 2 or 5 times a power of ten; for bytes a power of two."""
    rough = span / count
    if unit.startswith("B"):
        return 2 ** math.ceil(math.log2(rough))
    power = 10 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough)


class Axis:
    """Turns values into a place between `low` and `high` on the page."""

    def __init__(self, values, low, high, spec, at_values=False):
        self.low, self.high, self.unit = low, high, spec["unit"]
        self.log = spec.get("log", False)
        if self.log:
            self.start, self.end = min(values), max(values)
            self.ticks = sorted(set(values)) if at_values else self.powers()
        else:
            top = max(max(values), 1e-9)
            step = nice_step(top, 5, self.unit)
            self.start = 0
            self.end = top if at_values else step * math.ceil(top / step)
            self.ticks = [i * step for i in range(int(self.end / step) + 1)]

    def powers(self):
        """Moves both ends out to a power of ten, or of 16 for bytes."""
        base = 16 if self.unit.startswith("B") else 10
        first = math.floor(math.log(self.start, base) + 0.05)
        last = max(math.ceil(math.log(self.end, base) - 0.05), first + 1)
        self.start, self.end = base ** first, base ** last
        parts = (1, 2, 5) if base == 10 and last - first == 1 else (1,)
        ticks = [part * base ** power for power in range(first, last + 1)
                 for part in parts]
        return [tick for tick in ticks if tick <= self.end]

    def place(self, value):
        if self.log:
            share = (math.log(max(value, self.start) / self.start) /
                     math.log(self.end / self.start))
        else:
            share = value / self.end
        return self.low + share * (self.high - self.low)


def line_points(points, x_axis, y_axis):
    return " ".join(f"{x_axis.place(x):.1f},{y_axis.place(y):.1f}"
                    for x, y in points)


def grid(x_axis, y_axis, figure):
    left, top, right, bottom = PLOT
    for tick in y_axis.ticks:
        y = y_axis.place(tick)
        yield (f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" '
               f'y2="{y:.1f}"/><text class="dim" x="{left - 6}" '
               f'y="{y + 4:.1f}" text-anchor="end">'
               f'{quantity(tick, y_axis.unit)}</text>')
    for tick in x_axis.ticks:
        x = x_axis.place(tick)
        yield (f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" '
               f'y2="{bottom}"/><text class="dim" x="{x:.1f}" '
               f'y="{bottom + 16}" text-anchor="middle">'
               f'{quantity(tick, x_axis.unit)}</text>')
    yield (f'<path class="axis" fill="none" '
           f'd="M{left} {top}V{bottom}H{right}"/><text class="dim" '
           f'x="{(left + right) / 2}" y="{bottom + 33}" '
           f'text-anchor="middle">{escape(figure["x"]["label"])}</text>')


def legend(figure):
    x = PLOT[0]
    entries = [(f'<circle class="f{i % 4}" cx="{{}}" cy="40" r="4"/>',
                s["name"]) for i, s in enumerate(figure["series"])]
    entries += [('<path class="limit" transform="translate({} 40)" '
                 'd="M-6 0h12"/>', limit["label"])
                for limit in figure["limits"]]
    for mark, name in entries:
        yield mark.format(x + 5)
        yield f'<text x="{x + 14}" y="44">{escape(name)}</text>'
        x += 30 + 6.6 * len(name)


def curve(number_of, points, x_axis, y_axis):
    yield (f'<polyline class="line s{number_of % 4}" '
           f'points="{line_points(points, x_axis, y_axis)}"/>')
    if len(points) <= 12:
        for x, y in points:
            yield (f'<circle class="f{number_of % 4}" r="3.5" '
                   f'cx="{x_axis.place(x):.1f}" cy="{y_axis.place(y):.1f}"/>')


def panel(figure):
    left, top, right, bottom = PLOT
    points = [p for s in figure["series"] for p in s["points"]]
    limits = [limit.get("points") or [(None, limit["y"])]
              for limit in figure["limits"]]
    xs = [x for x, _ in points]
    ys = [y for _, y in points] + [y for limit in limits for _, y in limit]
    few = len(set(xs)) <= 12 or not figure["x"]["log"]
    x_axis = Axis(xs, left, right, figure["x"], at_values=few)
    y_axis = Axis(ys, bottom, top, figure["y"])
    yield (f'<text class="title" x="{left}" y="22">'
           f'{escape(figure["title"])}</text>')
    yield from grid(x_axis, y_axis, figure)
    for limit in limits:
        if limit[0][0] is None:
            limit = [(x_axis.start, limit[0][1]), (x_axis.end, limit[0][1])]
        yield (f'<polyline class="limit" '
               f'points="{line_points(limit, x_axis, y_axis)}"/>')
    for number_of, series in enumerate(figure["series"]):
        yield from curve(number_of, series["points"], x_axis, y_axis)
    yield from legend(figure)


def page(width, height, title, below, body):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} '
            f'{height}" width="{width}" height="{height}">'
            f'<style>{STYLE}</style>'
            f'<rect class="page" width="100%" height="100%"/>'
            f'<text class="big" x="16" y="24">{escape(title)}</text>'
            f'<text class="dim" x="16" y="41">{escape(below)}</text>'
            + "\n".join(body) + "</svg>\n")


def picture(title, below, figures):
    width, height = PANEL
    rows = math.ceil(len(figures) / COLUMNS)
    body = []
    for i, figure in enumerate(figures):
        x, y = i % COLUMNS * width, HEAD + i // COLUMNS * height
        body += [f'<g transform="translate({x} {y})">', *panel(figure), "</g>"]
    return page(COLUMNS * width, HEAD + rows * height, title, below, body)
