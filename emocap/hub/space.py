"""The app as a Space of the Hub, with the library beside it."""

import os
import re
from collections.abc import Sequence
from importlib.metadata import requires, version
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import HfApi
from transformers import AutoConfig

from emocap.cards.components import space_card
from emocap.evaluation.scoring import load_config
from emocap.hub.content import Content
from emocap.hub.publishing import Publication, check_login, explained, send
from emocap.models.photo_emocap import PHOTO_ENDINGS, photos_in_folder

__all__ = ["publish_space"]

NAME = re.compile(r"[\w.-]+")
"""At the beginning of a requirement."""


def publish_space(
    model: str | Sequence[str],
    repo_id: str,
    *,
    captioner: str | None = None,
    examples: str | os.PathLike | None = None,
    private: bool = False,
    license: str | None = None,
    dry_run: bool = False,
    token: str | None = None,
) -> Publication:
    """Publishes the app over published models: its card, `app.py`, `requirements.txt` with the versions that are
    installed here, and this library's own source.

    Args:
        model: Hub id of a teacher or student, or several, which answer side by side.
        repo_id: `name` or `owner/name`.
        captioner: Hub id of a captioner.
        examples: folder of photos to choose from, which are published too, with captions in `.txt` files beside them.
        private: whether a new Space is private.
        license: what the card names; by default the library's.
        dry_run: say what would change, and change nothing.
        token: of an account; by default the one that is logged in.

    Raises:
        FileNotFoundError: no photo in the folder of examples.
        ValueError: a model that lies in a folder, a checkpoint of another family, or a public Space where a private
            one is asked for.
        OSError: the Hub refuses the token, or does not answer.
        ImportError: gradio, whose version is pinned, is not installed.
    """
    if find_spec("gradio") is None:
        raise ImportError("publish-space pins the version of gradio: pip install 'emocap[demo]'.")
    models, api = [model] if isinstance(model, str) else list(model), HfApi(token=token)
    for name in [*models, *([captioner] if captioner else [])]:
        if os.path.isdir(name):
            raise ValueError(f"'{name}' is a folder, and a Space reads models from the Hub: publish it first.")
    for name in models:
        load_config(name)
    if captioner and (kind := AutoConfig.from_pretrained(captioner).model_type) != "emocap_captioner":
        raise ValueError(f"'{captioner}' is a '{kind}' checkpoint; expected an emocap captioner.")
    repo_id = repo_id if "/" in repo_id else f"{check_login(repo_id, token)}/{repo_id}"
    shown = None if examples is None else "examples"
    options = "".join(
        f", {name}={value!r}" for name, value in {"captioner": captioner, "examples": shown}.items() if value
    )
    files: dict[str, Path | bytes] = {
        "app.py": f"import emocap\n\nemocap.build_demo({models!r}{options}).launch()\n".encode(),
        "requirements.txt": "".join(f"{line}\n" for line in requirements()).encode(),
        **library_files(),
    }
    if examples is not None:
        for photo in (Path(str(own["image"])) for own in photos_in_folder(examples)):
            for path in (photo, photo.with_suffix(".txt")):
                if path.is_file():
                    files[f"examples/{path.relative_to(examples).as_posix()}"] = path
    card = space_card(models, repo_id, captioner, license)
    files["README.md"] = str(card).encode()
    stale = tuple({Path(path).suffix for path in files} - {".md"}) + PHOTO_ENDINGS
    with explained(repo_id):
        return send(api, repo_id, Content("demo", card, files, stale), private=private, dry_run=dry_run)


def requirements() -> list[str]:
    """What the library and its app need, at the versions that are installed here."""
    needed = [line for line in requires("emocap") or [] if "extra ==" not in line]
    names = [found[0] for line in needed if (found := NAME.match(line))]
    return [f"{name}=={version(name).partition('+')[0]}" for name in [*names, "gradio"]]


def library_files() -> dict[str, Path]:
    """This package's files, by their path in the Space."""
    root = Path(__file__).resolve().parent.parent
    paths = (path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix not in (".pyc", ".pyi"))
    return {
        path.relative_to(root.parent).as_posix(): path
        for path in paths
        if not any(part.startswith((".", "__pycache__")) for part in path.relative_to(root).parts)
    }
