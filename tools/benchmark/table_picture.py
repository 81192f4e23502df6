# SPDX-FileCopyrightText: The ext2cow authors
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table as a picture: each ratio as a multiple of its target, log axis."""
import math
from xml.sax.saxutils import escape

from benchmark import table
from benchmark.chart import page

LEFT, RIGHT, WIDTH = 400, 800, 900
STEP, TOP = 23, 84


def place(multiple, low, high):
    share = math.log(multiple / low) / math.log(high / low)
    return LEFT + min(max(share, 0), 1) * (RIGHT - LEFT)


def marks(result, y, low, high):
    target = result["target"]

    def x(ratio):
        return place(ratio / target, low, high)
    colour = 1 if table.missed(result) else 2
    if "ceiling" in result:
        yield (f'<path class="line axis" d="M{x(result["ceiling"]):.1f} '
               f'{y - 8}v16"/>')
    yield (f'<path class="line s{colour}" d="M{x(min(result["ratios"])):.1f} '
           f'{y}H{x(max(result["ratios"])):.1f}"/>'
           f'<circle class="f{colour}" cx="{x(result["median"]):.1f}" '
           f'cy="{y}" r="5"/>')


def row(result, y, low, high):
    weight = ' class="f1"' if table.missed(result) else ""
    yield (f'<line class="grid" x1="16" x2="{WIDTH - 16}" y1="{y + STEP / 2}" '
           f'y2="{y + STEP / 2}"/>'
           f'<text x="16" y="{y + 4}">{escape(result["work"])}</text>'
           f'<text class="dim" x="{LEFT - 14}" y="{y + 4}" text-anchor="end">'
           f'{escape(result["peer"])}</text>'
           f'<text{weight} x="{WIDTH - 16}" y="{y + 4}" text-anchor="end">'
           f'{result["median"]:.2f} of {result["target"]:.2f}</text>')
    yield from marks(result, y, low, high)


def picture(title, below, results):
    multiples = [ratio / r["target"] for r in results
                 for ratio in r["ratios"] + [r.get("ceiling", r["median"])]]
    low = min(0.5, min(multiples) / 1.1)
    high = max(2, max(multiples) * 1.1)
    bottom = TOP + STEP * len(results) - STEP / 2
    body = [f'<text class="dim" x="16" y="{TOP - 22}">work</text>'
            f'<text class="dim" x="{LEFT - 14}" y="{TOP - 22}" '
            f'text-anchor="end">against</text>'
            f'<text class="dim" x="{WIDTH - 16}" y="{TOP - 22}" '
            f'text-anchor="end">ratio</text>']
    for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10):
        if low <= tick <= high:
            x = place(tick, low, high)
            kind = "limit" if tick == 1 else "grid"
            name = "target" if tick == 1 else f"{tick:g}x"
            body.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" '
                        f'y1="{TOP - 14}" y2="{bottom}"/><text class="dim" '
                        f'x="{x:.1f}" y="{TOP - 22}" text-anchor="middle">'
                        f'{name}</text>')
    for i, result in enumerate(results):
        body += row(result, TOP + i * STEP, low, high)
    y = bottom + 24
    body.append(f'<circle class="f2" cx="22" cy="{y - 4}" r="5"/>'
                f'<text class="dim" x="34" y="{y}">reached, or not counted</text>'
                f'<circle class="f1" cx="192" cy="{y - 4}" r="5"/>'
                f'<text class="dim" x="204" y="{y}">missed; the median, and '
                f'the least and most of the rounds</text>'
                f'<path class="line axis" d="M572 {y - 12}v16"/>'
                f'<text class="dim" x="582" y="{y}">what plain copies reach '
                f'against the same peer</text>')
    return page(WIDTH, y + 14, title, below, body)
