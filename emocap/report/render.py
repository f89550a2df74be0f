"""Pages from the package's templates, with their figures and pictures inside."""

import base64
import hashlib
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup
from PIL import Image

from emocap.models.photo_emocap import to_rgb
from emocap.report.drawing import svg_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["jpeg_uri", "render_page", "small_rgb"]


def render_page(template: str, figures: Mapping[str, "Figure | None"], **values: Any) -> str:
    """A page of this package's templates; every value is escaped, and each figure an SVG under its name."""
    loader = jinja2.PackageLoader("emocap", "templates")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn = {
        name: figure and Markup(svg_text(figure, f"figure-{place}"))
        for place, (name, figure) in enumerate(figures.items(), start=1)
    }
    script, _, _ = loader.get_source(environment, "page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()  # no other script runs in the page
    values |= {"script": Markup(script), "script_hash": digest}
    return environment.get_template(template).render(figures=drawn, **values)


def small_rgb(image: Image.Image, side: int) -> Image.Image:
    """The photo in RGB, its longer side at most so many pixels."""
    image = to_rgb(image)
    image.thumbnail((side, side))
    return image


def jpeg_uri(image: Image.Image) -> str:
    jpeg = io.BytesIO()
    image.save(jpeg, format="JPEG", quality=85, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode("ascii")
