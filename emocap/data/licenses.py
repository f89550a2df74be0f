"""The licence of a table, from its source to the cards: it travels in `Dataset.info.license`, kept by every step."""

from collections.abc import Iterable
from typing import Any

from datasets import Dataset, DatasetDict
from huggingface_hub import DatasetCard
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError
from transformers.utils import logging

__all__ = ["card_license", "license_fields", "license_note", "license_of", "set_license"]

logger = logging.get_logger(__name__)

OTHER = {
    "socratis-research-only": "Socratis is its authors', for research.",
    "oasis-free-reuse": "OASIS (Kurdi, Lozano and Banaji 2017) may be reused freely.",
    "artemis-terms-of-use": "ArtEmis (Achlioptas et al. 2021) is given on its authors' terms of use, its paintings "
    "are WikiArt's: ask them before anything of it is passed on.",
    "affection-terms-of-use": "Affection (Achlioptas et al. 2022) is given on its authors' terms of use, its photos "
    "are those of five other data sets: ask them before anything of it is passed on.",
    "emoset-terms-of-use": "EmoSet (Yang et al. 2023) is given by its authors for research; its photos have licences "
    "of their own.",
}
"""Terms that are none of the Hub's licences: their name there, and what they are."""


def set_license(tables: DatasetDict, license: str | None) -> DatasetDict:
    """The same tables, their licence noted: one of the Hub's ids, or a name of `OTHER`."""
    for split in tables.values():
        split.info.license = license or ""
    return tables


def license_of(tables: Iterable[Dataset]) -> list[str] | None:
    """The licences of some tables, each once; None where one has none on record."""
    found = [table.info.license for table in tables]
    return list(dict.fromkeys(found)) if found and all(found) else None


def card_license(repo_id: str) -> str | None:
    """The licence that a data set's card on the Hub names, None where it names none."""
    try:
        data = DatasetCard.load(repo_id, ignore_metadata_errors=True).data
    except (HTTPError, LocalEntryNotFoundError, ValueError) as error:
        logger.warning(f"The licence of '{repo_id}' is not known: its card cannot be read ({type(error).__name__}).")
        return None
    own = data.get("license_name") if data.get("license") == "other" else data.get("license")
    return own if isinstance(own, str) and own != "unknown" else None


def license_fields(licenses: list[str] | None) -> dict[str, Any]:
    """The YAML part of a card for `license_of`'s answer, or for one licence that somebody chose; empty for None."""
    if not licenses:
        return {}
    if len(licenses) > 1:
        return {"license": "other", "license_name": "several"}
    return {"license": "other", "license_name": licenses[0]} if licenses[0] in OTHER else {"license": licenses[0]}


def license_note(licenses: list[str] | None) -> str:
    """A sentence for what the YAML part cannot say."""
    if not licenses or (len(licenses) == 1 and licenses[0] not in OTHER):
        return ""
    told = [OTHER.get(name, f"{name}.") for name in licenses]
    return " ".join(told) if len(told) == 1 else f"The data come from several sources: {' '.join(told)}"
