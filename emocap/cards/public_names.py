"""What a run's own records may say in public: Hub ids and names instead of this machine's paths, and no token."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from huggingface_hub import get_token

from emocap.records import PATH_KEYS

__all__ = ["PublicNames", "find_token"]

TOKEN = re.compile(r"hf_[A-Za-z0-9]{30,}")

PATH_IN_TEXT = re.compile(r"(?<![\w.:/<~-])/(?:[\w.+@-]+/)+[\w.+@-]+")

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")

ENCODER = "vision:"
"""Before the folder or Hub id of a vision encoder that a region extractor is made of."""


class PublicNames:
    """Public names of folders.

    Args:
        links: Hub id by absolute path of what is published, or about to be.
        family: what is published together: part, repository type and Hub id of each.
        committee: Hub ids of the teachers among them that can answer together, where there are several.
        paths: absolute paths that texts may speak of, blanks in them and all.
    """

    def __init__(
        self,
        links: Mapping[str, str] | None = None,
        family: Sequence[tuple[str, str, str]] = (),
        paths: Iterable[str] = (),
        committee: Sequence[str] = (),
    ):
        self.committee = tuple(committee)
        self.links, self.family, self.paths = dict(links or {}), tuple(family), frozenset(paths)

    def of_run(self, arguments: Mapping[str, Any], folder: Path) -> "PublicNames":
        """The same, with the paths that a run's arguments name."""
        named = [arguments[key] for key in PATH_KEYS if isinstance(arguments.get(key), str)]
        paths = {os.path.abspath(folder), *filter(is_absolute, named)}
        return PublicNames(self.links, self.family, paths, self.committee)

    def hub_id(self, value: str | None) -> str | None:
        """The Hub id that a folder is published under, or that `value` is itself; None for any other folder."""
        if not value:
            return None
        if linked := self.links.get(os.path.abspath(value)):
            return linked
        return value if HUB_ID.fullmatch(value) and not is_path(value) else None

    def shown(self, value: str) -> str:
        """The Hub id, or of a path its last part."""
        if value.startswith(ENCODER):
            return ENCODER + self.shown(value.removeprefix(ENCODER))
        if found := self.hub_id(value):
            return found
        return last_part(value) if is_path(value) else value

    def clean(self, content: Any, key: str | None = None) -> Any:
        """JSON content with every path shown as above, and every token masked."""
        if isinstance(content, dict):
            return {name: self.clean(value, name) for name, value in content.items()}
        if isinstance(content, list):
            return [self.clean(value, key) for value in content]
        if not isinstance(content, str):
            return content
        if (is_absolute(content) and "\n" not in content) or (key in PATH_KEYS and is_path(content)):
            return mask_tokens(self.shown(content))
        for path in sorted(self.paths, key=len, reverse=True):
            content = content.replace(path, self.shown(path))
        return mask_tokens(PATH_IN_TEXT.sub(lambda found: self.shown(found[0]), content))


def is_absolute(value: str) -> bool:
    """Whether a string is an absolute path on this machine or a Windows one, and not just a slash."""
    value = value.removeprefix(ENCODER)
    return (os.path.isabs(value) and len(value) > 1) or bool(re.match(r"[A-Za-z]:[\\/]|\\\\", value))


def is_path(value: str) -> bool:
    value = value.removeprefix(ENCODER)
    return is_absolute(value) or value.startswith((".", "~")) or os.path.isdir(value)


def last_part(value: str) -> str:
    windows = "\\" in value and "/" not in value
    return (PureWindowsPath if windows else PurePosixPath)(value).name or "folder"


def mask_tokens(text: str) -> str:
    text = TOKEN.sub("<HF_TOKEN>", text)
    own = get_token()
    return text.replace(own, "<HF_TOKEN>") if own else text


def find_token(text: str) -> bool:
    """Whether a text holds an access token of the Hub."""
    return mask_tokens(text) != text
