# SPDX-License-Identifier: GPL-2.0
"""A plot of lines on logarithmic axes, as SVG."""

import math
from html import escape
from typing import Dict, List, Tuple

Points = List[Tuple[float, float]]

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 80, 190, 40, 60
# Told apart by the colour-blind too (Okabe and Ito).
COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9',
           '#000000')
LEGEND_GAP = 16


def human(value: float) -> str:
    """A number for an axis."""
    for factor, unit in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
        if value >= factor:
            return f'{value / factor:g} {unit}'
    return f'{value:g}'


def size(count: float) -> str:
    """A number of bytes."""
    for factor, unit in ((1 << 20, 'MiB'), (1 << 10, 'KiB')):
        if count >= factor:
            return f'{count / factor:g} {unit}'
    return f'{count:g} B'


class Axis:
    """Where a value is, from 0 to 1."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = math.log(low), math.log(high)

    def at(self, value: float) -> float:
        """Its place."""
        if self.high == self.low:
            return 0.5
        return (math.log(value) - self.low) / (self.high - self.low)


class Plot:
    """Lines by name; every value must be positive."""

    def __init__(self, title: str, below: str, beside: str,
                 lines: Dict[str, Points]) -> None:
        self._words = title, below, beside
        self._lines = lines
        xs = sorted({x for points in lines.values() for x, _ in points})
        ys = [y for points in lines.values() for _, y in points]
        low = 10 ** math.floor(math.log10(min(ys)))
        high = 10 ** math.ceil(math.log10(max(ys)))
        self._xs = xs
        self._ys = [low * 10 ** step for step in range(
            round(math.log10(high / low)) + 1)]
        self._across, self._up = Axis(xs[0], xs[-1]), Axis(low, high)

    def _x(self, value: float) -> float:
        return LEFT + self._across.at(value) * (WIDTH - LEFT - RIGHT)

    def _y(self, value: float) -> float:
        return HEIGHT - BOTTOM - self._up.at(value) * (HEIGHT - TOP - BOTTOM)

    def _frame(self) -> List[str]:
        title, below, beside = map(escape, self._words)
        middle, bottom = (LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM
        parts = [
            f'<text x="{middle}" y="20" text-anchor="middle" '
            f'font-weight="bold">{title}</text>',
            f'<text x="{middle}" y="{HEIGHT - 14}" text-anchor="middle">{below}</text>',
            f'<text transform="translate(18 {(TOP + bottom) / 2}) rotate(-90)" '
            f'text-anchor="middle">{beside}</text>']
        for value in self._xs:
            x = self._x(value)
            parts += [
                f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="#ddd"/>',
                f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">'
                f'{size(value)}</text>']
        for value in self._ys:
            y = self._y(value)
            parts += [
                f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>',
                f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
                f'{human(value)}</text>']
        return parts

    def _line(self, points: Points, colour: str) -> List[str]:
        places = [(self._x(x), self._y(y)) for x, y in points]
        path = 'L'.join(f'{x:.1f} {y:.1f}' for x, y in places)
        return [f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>'] + [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'
            for x, y in places]

    def svg(self) -> str:
        """The whole file."""
        parts = self._frame()
        # Names stand where their lines end, as far as there is room.
        ends = sorted((self._y(points[-1][1]), name)
                      for name, points in self._lines.items())
        above = float('-inf')
        for number, (name, points) in enumerate(self._lines.items()):
            parts += self._line(points, COLOURS[number % len(COLOURS)])
        for y, name in ends:
            above = max(y + 4, above + LEGEND_GAP)
            colour = COLOURS[list(self._lines).index(name) % len(COLOURS)]
            parts.append(f'<text x="{WIDTH - RIGHT + 10}" y="{above:.1f}" '
                         f'fill="{colour}">{escape(name)}</text>')
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
            f'font-size="13">\n<rect width="100%" height="100%" fill="white"/>\n' +
            '\n'.join(parts) + '\n</svg>\n')
