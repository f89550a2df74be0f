"""Pages from the package's templates."""

import jinja2

__all__ = ["render_page"]


def render_page(template: str, **values: object) -> str:
    """A page of this package's templates; every value is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("emocap", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
