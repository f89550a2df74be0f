"""Figures of the built-in corpus: the things and the person of a scene, drawn with a pen that knows its extent."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import ImageDraw

__all__ = ["OVERSAMPLING", "THINGS", "Colour", "Pen", "draw_person", "mix", "scaled"]

OVERSAMPLING = 2
"""Scenes are drawn this many times larger and averaged, for smooth edges."""

Colour = tuple[int, ...]

_COATS: list[Colour] = [(196, 58, 66), (60, 104, 186), (86, 148, 74), (142, 84, 160), (226, 172, 52)]
_SKINS: list[Colour] = [(250, 214, 178), (236, 188, 144), (202, 146, 100), (150, 100, 66)]
_HAIRS: list[Colour] = [(50, 36, 28), (112, 70, 38), (222, 176, 88), (160, 78, 40)]


class Pen:
    """Draws in units of picture pixels around an anchor and remembers the extent of what it drew."""

    def __init__(
        self, draw: ImageDraw.ImageDraw, x: float, y: float, scale: float, tint: Sequence[float], mirror: bool
    ):
        self.draw, self.x, self.y, self.scale, self.tint = draw, x, y, scale, tint
        self.flip = -1 if mirror else 1
        self.extent = [math.inf, math.inf, -math.inf, -math.inf]

    def _place(self, points: Sequence[tuple[float, float]], margin: float = 0.0) -> list[tuple[float, float]]:
        placed = [(self.x + self.flip * self.scale * x, self.y + self.scale * y) for x, y in points]
        xs, ys = zip(*placed, strict=True)
        low, high = (min(xs) - margin, min(ys) - margin), (max(xs) + margin, max(ys) + margin)
        self.extent = [*map(min, self.extent[:2], low), *map(max, self.extent[2:], high)]
        return [(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in placed]

    def _colour(self, colour: Sequence[float]) -> Colour:
        return tuple(min(255, max(0, round(c * t))) for c, t in zip(colour, self.tint, strict=True))

    def _corners(self, x: float, y: float, rx: float, ry: float) -> list[tuple[float, float]]:
        (x1, y1), (x2, y2) = self._place([(x - rx, y - ry), (x + rx, y + ry)])
        return [(min(x1, x2), y1), (max(x1, x2), y2)]

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Sequence[float]) -> None:
        self.draw.ellipse(self._corners(x, y, rx, ry), fill=self._colour(colour))

    def half(self, x: float, y: float, rx: float, ry: float, colour: Sequence[float]) -> None:
        """Upper half of an ellipse."""
        self.draw.pieslice(self._corners(x, y, rx, ry), 180, 360, fill=self._colour(colour))

    def polygon(self, points: Sequence[tuple[float, float]], colour: Sequence[float]) -> None:
        self.draw.polygon(self._place(points), fill=self._colour(colour))

    def rectangle(self, x1: float, y1: float, x2: float, y2: float, colour: Sequence[float]) -> None:
        self.polygon([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], colour)

    def line(self, points: Sequence[tuple[float, float]], width: float, colour: Sequence[float]) -> None:
        pixels = max(1, round(width * self.scale * OVERSAMPLING))
        self.draw.line(self._place(points, width * self.scale / 2), fill=self._colour(colour), width=pixels,
                       joint="curve")  # fmt: skip


def mix(first: Sequence[float], second: Sequence[float], share: float) -> Colour:
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def scaled(colour: Sequence[float], factor: float) -> tuple[float, ...]:
    return tuple(c * factor for c in colour)


def draw_person(pen: Pen, head: Pen, face: str, rng: np.random.Generator) -> None:
    """A figure whose face and arms show one expression: `pen` stands at its feet, `head` in the middle of its head."""
    coat, skin, hair = (colours[rng.integers(len(colours))] for colours in (_COATS, _SKINS, _HAIRS))
    hand_x, hand_y = {"smile": (13, -27), "frown": (10, -8), "surprise": (14, -17), "angry": (12, -12)}[face]
    for side in (-1, 1):
        pen.line([(side * 3, -7), (side * 3, 0)], 3.4, (58, 60, 84))
        pen.line([(side * 6, -19), (side * hand_x, hand_y)], 3.2, scaled(coat, 0.85))
        if face == "angry":  # hands on hips
            pen.line([(side * 12, -12), (side * 6, -9)], 3.2, scaled(coat, 0.85))
        else:
            pen.ellipse(side * hand_x, hand_y, 2, 2, skin)
    pen.polygon([(-6, -22), (6, -22), (8.5, -5), (-8.5, -5)], coat)
    head.ellipse(0, -2.2, 12.4, 11.6, hair)
    head.ellipse(0, 0.8, 11.4, 11, mix(skin, (224, 74, 58), 0.45) if face == "angry" else skin)
    head.half(0, -4.5, 10.4, 6.5, hair)
    _draw_expression(head, face)


def _draw_expression(head: Pen, face: str) -> None:
    dark, white = (30, 24, 30), (255, 255, 255)
    eye = {"smile": (1.6, 2.0), "frown": (1.5, 1.6), "surprise": (1.4, 1.4), "angry": (1.5, 1.6)}[face]
    for side in (-1, 1):
        if face == "surprise":
            head.ellipse(side * 4.4, 0, 3, 3.4, white)
            head.line([(side * 6, -6.2), (side * 3, -6.4)], 1.2, dark)
        elif face == "angry":
            head.line([(side * 7.4, -4.6), (side * 2, -1.4)], 1.9, dark)
        elif face == "frown":
            head.line([(side * 7, -1.8), (side * 2.8, -4)], 1.2, dark)
            head.ellipse(side * 5.6, 4.6, 1.1, 2, (96, 168, 240))
        else:
            head.ellipse(side * 7, 4.4, 2, 1.5, (244, 146, 130))
        head.ellipse(side * 4.3, 0.6, *eye, dark)
    bend = np.linspace(-1, 1, 9)
    if face == "smile":
        head.polygon([*zip(6 * bend, 9 - 4.4 * bend**2, strict=True)], (150, 34, 40))
        head.polygon([(-5, 5), (5, 5), (4, 6.4), (-4, 6.4)], white)
    elif face == "frown":
        head.line([*zip(4.6 * bend, 6 + 3 * bend**2, strict=True)], 1.5, dark)
    elif face == "surprise":
        head.ellipse(0, 7, 2.8, 3.6, (120, 26, 34))
    else:
        head.rectangle(-4.6, 5.6, 4.6, 8.8, dark)
        head.rectangle(-3.8, 6.4, 3.8, 8, white)


def _draw_dog(pen: Pen, shade: float) -> None:
    coat, dark = scaled((176, 116, 62), shade), scaled((104, 62, 32), shade)
    pen.line([(13, -15), (17, -20), (18, -24)], 2.8, coat)
    for x in (-8, -4, 7, 11):
        pen.line([(x, -9), (x, -1)], 3.2, dark if x in (-4, 7) else coat)
    pen.ellipse(2, -13, 13, 6.6, coat)
    pen.ellipse(-10, -21, 8, 7, coat)
    pen.ellipse(-15, -18.5, 5, 3.8, mix(coat, (255, 236, 206), 0.45))
    pen.ellipse(-18.6, -20, 1.9, 1.6, (24, 20, 22))
    pen.ellipse(-12, -23, 1.3, 1.5, (24, 20, 22))
    pen.ellipse(-5, -21, 3, 6.2, dark)
    pen.line([(-5.4, -14.6), (-12.5, -13.6)], 2, (206, 44, 48))
    pen.ellipse(-15.4, -14.4, 1.6, 2.4, (232, 104, 116))


def _draw_spider(pen: Pen, shade: float) -> None:
    black, grey = scaled((38, 32, 40), shade), scaled((70, 60, 74), shade)
    for side in (-1, 1):
        for knee, foot in ((9, -27), (16, -25)), ((12, -21), (19, -13)), ((12, -15), (19, -4)), ((9, -9), (13, 0)):
            pen.line([(side * 3, -14), (side * knee[0], knee[1]), (side * foot[0], foot[1])], 1.8, black)
    pen.ellipse(0, -18, 9, 9.5, black)
    pen.ellipse(0, -8.5, 5.8, 5.2, grey)
    pen.polygon([(-3, -23), (3, -23), (0, -18.5), (3, -14.5), (-3, -14.5), (0, -18.5)], (214, 36, 40))
    for x in (-2.2, 2.2):
        pen.ellipse(x, -8.6, 1.7, 1.7, (250, 236, 120))
        pen.polygon([(x * 0.4, -4.4), (x * 1.3, -4.4), (x * 0.8, -1.4)], (246, 246, 240))


def _draw_house(pen: Pen, shade: float) -> None:
    wall, roof = scaled((246, 226, 190), shade), scaled((172, 62, 50), shade)
    pen.rectangle(7, -36, 11, -24, scaled(roof, 0.75))
    pen.rectangle(-14, -21, 14, 0, wall)
    pen.polygon([(-18, -20), (0, -36), (18, -20)], roof)
    pen.rectangle(-3.5, -12, 3.5, 0, (112, 70, 42))
    pen.ellipse(2, -6, 0.8, 0.8, (250, 214, 90))
    for x in (-9, 9):
        pen.rectangle(x - 3.4, -16, x + 3.4, -9, (104, 72, 52))
        pen.rectangle(x - 2.6, -15.2, x + 2.6, -9.8, (255, 232, 130))
        pen.line([(x, -15.2), (x, -9.8)], 0.7, (104, 72, 52))


def _draw_heart(pen: Pen, shade: float) -> None:
    angle = np.linspace(0, 2 * math.pi, 40)
    x = 16 * np.sin(angle) ** 3
    y = -(13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle))
    pen.polygon([*zip(1.05 * x, y - 20, strict=True)], scaled((232, 38, 82), shade))
    pen.ellipse(-7.5, -25.5, 3.4, 2.6, (255, 178, 194))


def _draw_balloon(pen: Pen, shade: float) -> None:
    for x, y, lean, colour in (
        (-9, -30, -2, (250, 190, 42)),
        (9, -28, 2, (58, 168, 92)),
        (0, -36, 0, (64, 120, 232)),
    ):
        pen.line([(x, y + 10), (lean, y + 20), (0, 0)], 0.8, (240, 240, 240))
        pen.polygon([(x, y + 9), (x - 2, y + 12.4), (x + 2, y + 12.4)], scaled(colour, 0.85 * shade))
        pen.ellipse(x, y, 8.4, 10, scaled(colour, shade))
        pen.ellipse(x - 3, y - 4, 1.8, 2.6, mix(colour, (255, 255, 255), 0.65))


def _draw_tomb(pen: Pen, shade: float) -> None:
    stone, dark = scaled((182, 184, 192), shade), scaled((96, 98, 108), shade)
    pen.ellipse(0, -1.5, 17, 4, (104, 82, 60))
    pen.half(0, -23, 12, 11, dark)
    pen.rectangle(-12, -23.4, 12, -2, dark)
    pen.half(-1, -22.5, 10.6, 9.6, stone)
    pen.rectangle(-11.6, -23, 9.6, -2, stone)
    pen.rectangle(-2.2, -29, 0.2, -14, dark)
    pen.rectangle(-6, -25.4, 4, -23, dark)
    for y in (-11, -7.5):
        pen.line([(-7, y), (5, y)], 1, dark)


def _draw_cake(pen: Pen, shade: float) -> None:
    sponge, cream, plate = scaled((238, 186, 120), shade), (255, 244, 236), (232, 236, 242)
    pen.ellipse(0, -2, 19, 3, plate)
    pen.rectangle(-15, -14, 15, -2, sponge)
    pen.rectangle(-15, -9.4, 15, -7.4, (236, 92, 132))
    pen.rectangle(-10, -23, 10, -14, scaled((250, 170, 190), shade))
    for x in range(-13, 14, 5):
        pen.ellipse(x, -13.4, 3, 2.4, cream)
    for dot in (-7.5, -2.5, 2.5, 7.5):
        pen.ellipse(dot, -22.6, 3, 2.2, cream)
    for x, colour in (-6, (70, 128, 226)), (0, (236, 70, 70)), (6, (80, 178, 90)):
        pen.line([(x, -24), (x, -31)], 1.8, colour)
        pen.ellipse(x, -33.4, 1.5, 2.5, (255, 206, 60))


def _draw_flowers(pen: Pen, shade: float) -> None:
    blooms = (-10, -20, (240, 96, 150)), (10, -21, (250, 208, 66)), (0, -29, (242, 84, 70)), (-2, -15, (168, 108, 220))
    for x, y, _ in blooms:
        pen.line([(0, -2), (x * 0.5, y * 0.5), (x, y)], 1.4, (66, 142, 62))
    for side in (-1, 1):
        pen.polygon([(0, -3), (side * 9, -12), (side * 3, -10)], (66, 142, 62))
    for x, y, colour in blooms:
        for angle in np.arange(6) * math.pi / 3:
            pen.ellipse(x + 4 * math.cos(angle), y + 4 * math.sin(angle), 2.9, 2.9, scaled(colour, shade))
        pen.ellipse(x, y, 2.6, 2.6, (255, 240, 190))
    pen.polygon([(-5.5, -8), (5.5, -8), (4, 0), (-4, 0)], (92, 150, 196))


THINGS: dict[str, Callable[[Pen, float], None]] = {
    "dog": _draw_dog,
    "spider": _draw_spider,
    "house": _draw_house,
    "heart": _draw_heart,
    "balloon": _draw_balloon,
    "tomb": _draw_tomb,
    "cake": _draw_cake,
    "flowers": _draw_flowers,
}
