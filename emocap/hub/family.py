"""A whole family on the Hub: extractor, teacher, data set, student and fine-tuned models, each card linked to the
others."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from transformers.utils import logging

from emocap.cards.public_names import PublicNames
from emocap.hub.content import check_safe, kind_of
from emocap.hub.publishing import Publication, check_login, explained, publish, short
from emocap.records import STATISTICS_FILE
from emocap.terminal import say

__all__ = ["find_family", "publish_family"]

logger = logging.get_logger(__name__)

ROLES = {
    "extractor": "region extractor",
    "teacher": "teacher",
    "dataset": "pseudo-labels",
    "student": "student",
    "finetuned": "fine-tuned",
    "captioner": "captioner",
}
"""Parts of a family, in the order in which one is made from the other."""


def publish_family(
    folder: str | Path,
    *,
    namespace: str | None = None,
    prefix: str = "emocap",
    private: bool = False,
    dry_run: bool = False,
    license: str | None = None,
    report: Callable[[Publication], None] | None = None,
) -> list[Publication]:
    """Publishes every region extractor, finished run and labelled table in the folders of `folder`.

    Each becomes a repository `namespace/prefix-FOLDER`; their cards name each other, and what one was made from. Of
    several teachers with the same emotions they say how these answer together. A Hub that keeps collections gets one
    of them all; on another a warning says that there is none. A Space `namespace/prefix-demo` that is there already,
    see `publish_space`, is linked like a part of the family. Tables of people's labels are not among them: publish
    those by themselves, if their owners let you.

    Args:
        folder: of folders, such as a quickstart's.
        namespace: user or organisation; the one logged in by default.
        prefix: of every name.
        private: whether new repositories, and the collection, are private.
        dry_run: say what would change, and change nothing.
        license: what every card names; by default that of the data, where it is on record.
        report: called with each publication.

    Raises:
        FileNotFoundError: there is nothing to publish in `folder`.
        OSError, ValueError: as `publish`.
    """
    folder, members = Path(folder), find_family(Path(folder))
    for member in members:
        check_safe(member)
    namespace = namespace or check_login(prefix)
    repo_ids = {member: f"{namespace}/{repo_name(prefix, member.name)}" for member in members}
    if len(set(repo_ids.values())) < len(repo_ids):
        raise ValueError(f"Two of the folders {', '.join(path.name for path in members)} would get one name.")
    family = [
        (ROLES[role], "dataset" if role == "dataset" else "model", repo_ids[member])
        for member, role in members.items()
    ]
    space = f"{namespace}/{repo_name(prefix, 'demo')}"
    with explained(space):
        has_space = HfApi().repo_exists(space, repo_type="space")
    if has_space:
        family.append(("app", "space", space))
    names = PublicNames(make_links(repo_ids), family, committee=[repo_ids[member] for member in committee_of(members)])
    publications = []
    for member, repo_id in repo_ids.items():
        publication = publish(member, repo_id, private=private, dry_run=dry_run, names=names, license=license)
        publications.append(publication)
        if report is not None:
            report(publication)
    parts = [*publications, *([Publication(space, "space", "", {}, [], [], [])] if has_space else [])]
    if not dry_run and (address := make_collection(namespace, prefix, private, parts)):
        say(f"Collection: {address}")
    return publications


def find_family(folder: Path) -> dict[Path, str]:
    """The folders to publish and their roles (see `ROLES`), in the order of the roles.

    Raises:
        FileNotFoundError: there is none.
    """
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_dir() and not path.name.startswith(".") and (role := role_of(path)):
            found[path] = role
    if not found:
        raise FileNotFoundError(
            f"'{folder}' holds no folder of a finished run, a region extractor or a labelled table; give a folder "
            "such as `emocap quickstart` writes."
        )
    order = list(ROLES)
    return dict(sorted(found.items(), key=lambda item: (order.index(item[1]), item[0].name)))


def role_of(folder: Path) -> str | None:
    try:
        kind = kind_of(folder)
    except FileNotFoundError:
        return None
    if kind == "model":
        return json.loads((folder / "run_arguments.json").read_text("utf-8"))["kind"]
    return kind if kind != "dataset" or (folder / STATISTICS_FILE).is_file() else None


def committee_of(members: dict[Path, str]) -> list[Path]:
    """The teachers, where they are several and have the same emotions."""
    teachers = [member for member, role in members.items() if role == "teacher"]
    emotions = [json.loads((path / "config.json").read_text("utf-8"))["id2label"].values() for path in teachers]
    return teachers if len(teachers) > 1 and len({frozenset(own) for own in emotions}) == 1 else []


def repo_name(prefix: str, folder: str) -> str:
    """`prefix-folder` in the letters that the Hub allows; `anb+` becomes `anb-plus`."""
    name = re.sub(r"[^\w.-]+", "-", f"{prefix}-{folder}".replace("+", "-plus"), flags=re.ASCII)
    return re.sub(r"-{2,}|\.{2,}", "-", name).strip("-.")[:96]


def make_links(repo_ids: dict[Path, str]) -> dict[str, str]:
    """Hub id by absolute path, of where each folder is and of where it was when its run ended."""
    parents = {os.path.abspath(member.parent) for member in repo_ids}
    for member in repo_ids:
        path = member / "run_arguments.json"
        if path.is_file() and (recorded := json.loads(path.read_text("utf-8")).get("output_dir")):
            parents.add(os.path.dirname(os.path.abspath(recorded)))
    return {os.path.join(parent, member.name): repo_id for parent in parents for member, repo_id in repo_ids.items()}


def make_collection(namespace: str, prefix: str, private: bool, publications: list[Publication]) -> str | None:
    """A collection of the family; its address, or None, with a warning, where the Hub makes none. Everything else is
    published by then."""
    api = HfApi()
    try:
        collection = api.create_collection(prefix, namespace=namespace, private=private, exists_ok=True)
        for publication in publications:
            api.add_collection_item(collection.slug, publication.repo_id, publication.repo_type, exists_ok=True)
    except HTTPError as error:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        reason = "it keeps none" if status in (404, 405, 501) else short(error)
        logger.warning(
            f"Everything is published, but {api.endpoint} has no complete collection of it ({reason}). The same "
            "command tries again, and publishes nothing twice."
        )
        return None
    return collection.url
