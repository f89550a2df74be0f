"""Drawings of the built-in corpus: a small scene from its five attributes, with the boxes of what can be seen."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from emocap.scenes.figures import OVERSAMPLING, THINGS, Colour, Pen, draw_person, scaled

__all__ = ["PICTURE_ATTRIBUTES", "PICTURE_SIZE", "SCENE_CLASSES", "PictureState", "draw_scene"]

PICTURE_SIZE = 96

PICTURE_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "weather": ("clear", "rain", "storm", "snow", "fog"),
    "light": ("day", "dusk", "night"),
    "palette": ("warm", "cool", "grey"),
    "thing": ("dog", "spider", "house", "heart", "balloon", "tomb", "cake", "flowers"),
    "face": ("smile", "frown", "surprise", "angry", "nobody"),
}
"""Every attribute of a picture with its values; each value is always visible."""

SCENE_CLASSES = [
    *("day sky", "dusk sky", "night sky", "warm ground", "cool ground", "grey ground"),
    *("sun", "moon", "stars", "cloud", "rain", "lightning", "snow", "fog"),
    *PICTURE_ATTRIBUTES["thing"],
    *(f"{face} face" for face in PICTURE_ATTRIBUTES["face"][:-1]),
]
"""Classes of the boxes that `draw_scene` returns."""

Box = tuple[float, float, float, float]

_FRAME = 4
_SKIES: dict[str, tuple[Colour, Colour]] = {  # top, horizon
    "day": ((96, 172, 236), (206, 232, 246)),
    "dusk": ((112, 74, 148), (250, 160, 96)),
    "night": ((14, 18, 48), (50, 58, 104)),
}
_LIGHT_TINTS = {"day": (1.0, 1.0, 1.0), "dusk": (0.95, 0.84, 0.82), "night": (0.74, 0.77, 0.9)}
_GROUNDS: dict[str, Colour] = {"warm": (222, 158, 78), "cool": (84, 164, 148), "grey": (146, 146, 148)}
_FRAMES: dict[str, Colour] = {"warm": (206, 104, 48), "cool": (38, 112, 140), "grey": (112, 112, 116)}
_CLOUDS: dict[str, Colour] = {
    "clear": (252, 252, 254), "rain": (150, 158, 172), "storm": (78, 80, 98), "snow": (222, 228, 236),
}  # fmt: skip
_CLOUDINESS = {"clear": 0.0, "rain": 0.45, "storm": 0.6, "snow": 0.35, "fog": 0.5}  # how grey the sky becomes


class PictureState(NamedTuple):
    """The attributes of one picture; values as in `PICTURE_ATTRIBUTES`."""

    weather: str
    light: str
    palette: str
    thing: str
    face: str


def draw_scene(state: PictureState, rng: np.random.Generator) -> tuple[Image.Image, list[tuple[str, Box]]]:
    """Draws one scene; place, size and shade of everything vary with `rng`, the attributes stay legible.

    The same attributes and state of the generator give the same picture.

    Returns:
        An RGB picture of 96 x 96 pixels, and the boxes of the visible things as (class name of `SCENE_CLASSES`,
        relative (x1, y1, x2, y2)).

    Raises:
        ValueError: an attribute has a value that `PICTURE_ATTRIBUTES` does not list.
    """
    for attribute, value in state._asdict().items():
        if value not in PICTURE_ATTRIBUTES[attribute]:
            raise ValueError(f"{attribute} is '{value}'; expected one of {', '.join(PICTURE_ATTRIBUTES[attribute])}.")
    scene = _Scene(state, rng)
    horizon = rng.uniform(56, 64)
    _draw_sky(scene, horizon)
    _draw_ground(scene, horizon)
    _draw_falling(scene, behind=True)
    mirrored = rng.random() < 0.5
    place = rng.uniform(24, 31), rng.uniform(64, 71)
    person_x, thing_x = (96 - place[0], 96 - place[1]) if mirrored else place
    base = rng.uniform(83, 88)
    thing = scene.pen(thing_x, base, rng.uniform(0.92, 1.1), mirror=rng.random() < 0.5)
    THINGS[state.thing](thing, _shade(rng, 0.1))
    scene.add_box(state.thing, thing)
    if state.face != "nobody":
        feet, scale = rng.uniform(86, 90), rng.uniform(0.94, 1.08)
        head = scene.pen(person_x, feet - 34 * scale, scale)
        draw_person(scene.pen(person_x, feet, scale), head, state.face, rng)
        scene.add_box(f"{state.face} face", head)
    _draw_falling(scene, behind=False)
    if state.weather == "fog":
        _draw_fog(scene)
    _draw_frame(scene)
    return scene.image.reduce(OVERSAMPLING), scene.boxes


class _Scene:
    """The picture being drawn, its boxes, its state and its source of variation."""

    def __init__(self, state: PictureState, rng: np.random.Generator):
        self.state, self.rng = state, rng
        size = PICTURE_SIZE * OVERSAMPLING
        self.image = Image.new("RGB", (size, size))
        self.draw = ImageDraw.Draw(self.image)
        self.boxes: list[tuple[str, Box]] = []

    def pen(self, x: float, y: float, scale: float = 1.0, *, mirror: bool = False, lit: bool = False) -> Pen:
        """A pen at (x, y); what gives its own light keeps its colour at night (`lit`)."""
        tint = (1.0, 1.0, 1.0) if lit else _LIGHT_TINTS[self.state.light]
        return Pen(self.draw, x, y, scale, tint, mirror)

    def add_box(self, name: str, pen: Pen | None = None, extent: Sequence[float] = ()) -> None:
        """Notes the box of what `pen` drew (or `extent`, in pixels), cut at the frame."""
        corners = np.clip(pen.extent if pen else extent, _FRAME, PICTURE_SIZE - _FRAME) / PICTURE_SIZE
        if corners[2] > corners[0] and corners[3] > corners[1]:
            self.boxes.append((name, tuple(corners.tolist())))


def _shade(rng: np.random.Generator, spread: float) -> float:
    """A factor of brightness around 1."""
    return float(rng.uniform(1 - spread, 1 + spread))


def _draw_sky(scene: _Scene, horizon: float) -> None:
    state, rng = scene.state, scene.rng
    top, bottom = (np.array(colour) * _shade(rng, 0.06) for colour in _SKIES[state.light])
    grey = np.array((146, 150, 162)) * {"day": 1.12, "dusk": 0.8, "night": 0.36}[state.light]
    if state.weather == "storm":
        grey = grey * 0.72
    share = np.linspace(0, 1, scene.image.height)[:, None].clip(0, horizon / PICTURE_SIZE) * PICTURE_SIZE / horizon
    colours = top + (bottom - top) * share
    cloudiness = _CLOUDINESS[state.weather] * (0.75 if state.light == "dusk" else 1)  # the glow shines through
    colours += (grey - colours) * cloudiness
    column = Image.fromarray(colours.clip(0, 255).astype(np.uint8)[:, None])
    scene.image.paste(column.resize(scene.image.size, Image.Resampling.NEAREST))
    scene.add_box(f"{state.light} sky", extent=(0, 0, PICTURE_SIZE, horizon))
    if state.weather == "clear":
        _draw_clear_sky(scene)
    if state.weather == "storm":  # before the clouds: the bolts come out of them
        for x in rng.permutation([24, 48, 72])[: rng.integers(1, 3)] + rng.uniform(-5, 5):
            bolt = scene.pen(x, rng.uniform(19, 22), rng.uniform(0.95, 1.2), mirror=rng.random() < 0.5, lit=True)
            bolt.polygon([(1, 0), (-6, 15), (-1, 15), (-5, 30), (7, 10), (1.5, 10), (6, 0)], (255, 226, 74))
            scene.add_box("lightning", bolt)
    if state.weather in _CLOUDS and state.weather != "clear":
        for x in rng.uniform(14, 34), rng.uniform(42, 56), rng.uniform(64, 84):
            _draw_cloud(scene, x, rng.uniform(15, 21), rng.uniform(0.85, 1.15), _CLOUDS[state.weather])


def _draw_clear_sky(scene: _Scene) -> None:
    light, rng = scene.state.light, scene.rng
    x, radius = rng.uniform(18, 78), rng.uniform(7.5, 9.5)
    if light == "night":
        stars = scene.pen(0, 0, lit=True)
        for star_x, star_y in zip(rng.uniform(8, 88, 16), rng.uniform(8, 44, 16), strict=True):
            size = rng.uniform(0.5, 1.0)
            stars.ellipse(star_x, star_y, size, size, (246, 244, 220))
        scene.add_box("stars", stars)
        moon = scene.pen(x, rng.uniform(17, 24), mirror=rng.random() < 0.5, lit=True)
        moon.ellipse(0, 0, radius * 0.95, radius * 0.95, (246, 240, 206))
        scene.add_box("moon", moon)
        for dx, dy, crater in (-3, -2, 1.8), (2.5, 2, 2.2), (1, -4, 1.2):
            moon.ellipse(dx, dy, crater, crater, (222, 214, 176))
        return
    colour = (255, 212, 62) if light == "day" else (255, 116, 62)
    sun = scene.pen(x, rng.uniform(17, 24) if light == "day" else rng.uniform(28, 34), lit=True)
    turn = rng.uniform(0, math.pi / 4)
    for angle in turn + np.arange(8) * math.pi / 4:
        x1, y1 = math.cos(angle), math.sin(angle)
        sun.line([(x1 * (radius + 2), y1 * (radius + 2)), (x1 * (radius + 5), y1 * (radius + 5))], 1.6, colour)
    sun.ellipse(0, 0, radius, radius, colour)
    scene.add_box("sun", sun)
    if rng.random() < 0.5:
        _draw_cloud(
            scene, (x + rng.uniform(30, 50)) % 88, rng.uniform(13, 20), rng.uniform(0.5, 0.7), _CLOUDS["clear"]
        )


def _draw_cloud(scene: _Scene, x: float, y: float, scale: float, colour: Sequence[float]) -> None:
    pen = scene.pen(x, y, scale, mirror=scene.rng.random() < 0.5)
    colour = scaled(colour, _shade(scene.rng, 0.06))
    for dx, dy, rx, ry in (-8, 1, 7, 5), (8, 1.5, 7, 4.5), (-1, -2, 8, 7), (0, 3, 13, 3.5):
        pen.ellipse(dx, dy, rx, ry, colour)
    scene.add_box("cloud", pen)


def _draw_ground(scene: _Scene, horizon: float) -> None:
    state, rng = scene.state, scene.rng
    colour = scaled(_GROUNDS[state.palette], _shade(rng, 0.07))
    hill = scene.pen(0, 0)
    hill.ellipse(rng.uniform(10, 40), horizon + 12, 44, 17, scaled(colour, 0.9))
    hill.ellipse(rng.uniform(60, 90), horizon + 13, 44, 15, scaled(colour, 0.95))
    hill.rectangle(0, horizon + 5, PICTURE_SIZE, PICTURE_SIZE, colour)
    for x, y in zip(rng.uniform(6, 90, 7), rng.uniform(horizon + 9, 91, 7), strict=True):
        if state.weather == "snow":
            hill.ellipse(x, y, rng.uniform(6, 11), 2.2, (250, 252, 255))
        else:
            hill.line([(x - 2, y), (x + 2, y)], 0.8, scaled(colour, 0.82))
    scene.add_box(f"{state.palette} ground", extent=(0, horizon - 3, PICTURE_SIZE, PICTURE_SIZE))


def _draw_falling(scene: _Scene, *, behind: bool) -> None:
    """Rain or snow: most of it behind the figures, a little before them, so that faces stay legible."""
    weather, rng = scene.state.weather, scene.rng
    if weather not in ("rain", "snow"):
        return
    number = {"rain": 34, "snow": 44}[weather] if behind else 7
    pen = scene.pen(0, 0, lit=True)
    for x, y, size in zip(
        rng.uniform(5, 91, number), rng.uniform(26, 88, number), rng.uniform(0.8, 1.4, number), strict=True
    ):
        if weather == "rain":
            pen.line([(x + 1.6 * size, y - 4 * size), (x - 1.6 * size, y + 4 * size)], 0.9, (92, 148, 224))
        else:
            pen.ellipse(x, y, size, size, (255, 255, 255))
    if behind:
        scene.add_box(weather, pen)


def _draw_fog(scene: _Scene) -> None:
    """Soft pale bands across the scene."""
    rng, size = scene.rng, scene.image.size
    rows = np.linspace(0, PICTURE_SIZE, 24)
    density = np.zeros((24, 8))
    for centre in rng.uniform(17, 23), rng.uniform(32, 38), rng.uniform(70, 77):  # not over the face
        drift = centre + rng.uniform(-3, 3, 8)
        density = np.maximum(density, np.exp(-(((rows[:, None] - drift) / 5.5) ** 2)) * rng.uniform(0.58, 0.7))
    mask = Image.fromarray((density * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pale = {"day": (238, 240, 242), "dusk": (232, 206, 196), "night": (128, 136, 164)}[scene.state.light]
    scene.image.paste(Image.new("RGB", size, pale), mask=mask)
    scene.add_box("fog", extent=(0, 12, PICTURE_SIZE, 84))


def _draw_frame(scene: _Scene) -> None:
    colour = tuple(round(c) for c in scaled(_FRAMES[scene.state.palette], _shade(scene.rng, 0.08)))
    size = scene.image.width
    scene.draw.rectangle((0, 0, size - 1, size - 1), outline=colour, width=_FRAME * OVERSAMPLING)
