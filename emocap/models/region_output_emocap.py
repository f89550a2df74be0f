"""What every region extractor does and gives."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import ModelOutput

__all__ = ["RegionExtractor", "RegionOutput", "as_output", "pad_rows"]


@dataclass
class RegionOutput(ModelOutput):
    """Regions of a batch of photos, best first (cells of a grid row by row), zeros after the last.

    Args:
        region_features: float `(batch, num_regions, feature_dim)`.
        region_boxes: float `(batch, num_regions, 4)`, x1 y1 x2 y2 relative to the photo's width and height.
        num_regions: int64 `(batch,)`, regions that were found.
        scores: float `(batch, num_regions)`, probability of the best class; None where nothing is classified.
        class_ids: int64 `(batch, num_regions)`, the best class, -1 after the last region; None likewise.
        attribute_ids: int64 `(batch, num_regions)`, the best attribute, -1 after the last region; None where the
            detector knows none.
        attribute_scores: float `(batch, num_regions)`, its probability.
        hidden_states: where they are asked for, the maps that the regions are cut from, finest first, float32
            `(batch, channels, height, width)`.
    """

    region_features: torch.FloatTensor | None = None
    region_boxes: torch.FloatTensor | None = None
    num_regions: torch.LongTensor | None = None
    scores: torch.FloatTensor | None = None
    class_ids: torch.LongTensor | None = None
    attribute_ids: torch.LongTensor | None = None
    attribute_scores: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None


class RegionExtractor(PreTrainedModel):
    """From photos to regions, whatever the network."""

    def image_processor(self) -> BaseImageProcessor:
        """What makes this extractor's inputs of photos; saved with it."""
        raise NotImplementedError

    def look(self, processor: BaseImageProcessor, photos: list[Image.Image]) -> RegionOutput:
        """Regions of photos in one step of the network."""
        raise NotImplementedError

    def extract(self, photos: Sequence[Image.Image]) -> RegionOutput:
        """Regions of PIL photos of any size and mode.

        On a CPU every photo goes alone: it fills the cores, and its regions have the same bits in any batch.

        Raises:
            ValueError: there is no photo.
        """
        if not photos:
            raise ValueError("There is no photo to extract regions from; give at least one.")
        processor, step = self.image_processor(), 1 if self.device.type == "cpu" else len(photos)
        outputs = [
            self.look(processor, list(photos[start : start + step])).to_tuple()
            for start in range(0, len(photos), step)
        ]
        return RegionOutput(*map(torch.cat, zip(*outputs, strict=True)))

    def save_pretrained(self, save_directory, **kwargs) -> None:
        """As everywhere in transformers, and the image processor beside it."""
        super().save_pretrained(save_directory, **kwargs)
        self.image_processor().save_pretrained(save_directory)


def as_output(
    config: PreTrainedConfig,
    photos: Sequence[tuple[torch.Tensor, ...]],
    hidden_states: Sequence[tuple[torch.Tensor, ...]],
    output_hidden_states: bool | None,
    return_dict: bool | None,
) -> RegionOutput | tuple[torch.Tensor, ...]:
    """The output of a batch from the fields and the maps of each photo.

    Raises:
        ValueError: the maps are asked for, and photos differ in size.
    """
    output = RegionOutput(*map(torch.stack, zip(*photos, strict=True)))
    if config.output_hidden_states if output_hidden_states is None else output_hidden_states:
        if len({maps[0].shape for maps in hidden_states}) > 1:
            raise ValueError(
                "Photos of different sizes have maps of different sizes, which are no batch: give them one by one, or "
                "leave out output_hidden_states."
            )
        output.hidden_states = tuple(map(torch.stack, zip(*hidden_states, strict=True)))
    return output if (config.return_dict if return_dict is None else return_dict) else output.to_tuple()


def pad_rows(values: torch.Tensor, rows: int) -> torch.Tensor:
    """`values` followed by zeros up to `rows` rows."""
    return torch.cat((values, values.new_zeros(rows - len(values), *values.shape[1:])))
