"""Published data sets that people have, by name: which of their columns is what, and their licences."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from emocap.data.sources import Source, read_emoset

__all__ = ["PUBLISHED", "Published"]

MIKELS = ["amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness"]
"""Eight emotions of pictures (Mikels et al. 2005), the four positive ones first, as all three data sets list them."""


@dataclass(frozen=True)
class Published:
    """How `build_pairs` reads a data set.

    Attributes:
        license: its licence, see `emocap.data.licenses`.
        columns: by the names of `Columns`.
        labels: its emotions, in order, where its files do not say them.
        annotators: whether each row is one annotator's answer.
        config: configuration of its Hub id.
        read: what opens it, where it is no table.
    """

    license: str | None = None
    columns: dict[str, str | list[str]] = field(default_factory=dict)
    labels: list[str] | None = None
    annotators: bool | None = None
    config: str | None = None
    read: Callable[[Any], Source] | None = None


PUBLISHED = {
    "goemotions": Published(
        "apache-2.0",
        {"image": "none", "id": "id", "caption": "text", "labels": "labels"},
        config="simplified",
    ),
    "artemis": Published(
        "artemis-terms-of-use",
        {"image": "{art_style}/{painting}.jpg", "caption": "utterance", "labels": "emotion"},
        [*MIKELS, "something else"],
        annotators=True,
    ),
    "affection": Published(
        "affection-terms-of-use",
        {"image": "{dataset}/{image_name}", "caption": "utterance", "labels": "emotion", "annotator": "workerid"},
        [*MIKELS, "something else"],
        annotators=True,
    ),
    "emoset": Published(
        "emoset-terms-of-use", {"image": "image", "caption": "none", "labels": "emotion"}, MIKELS, read=read_emoset
    ),
}
"""GoEmotions (Demszky et al. 2020; Reddit comments without photos, 27 emotions and neutral), ArtEmis (Achlioptas et
al. 2021; paintings of WikiArt, one row an annotator with the reason given), Affection (Achlioptas et al. 2022; photos
of five data sets, likewise) and EmoSet-118K (Yang et al. 2023; photos without captions), each as it is published."""
