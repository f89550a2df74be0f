"""Region features: extracted from photos, or attached from files that exist already."""

from emocap.regions.extraction import SCENES_DETECTOR, RegionFeatures, extract_regions
from emocap.regions.formats import import_regions

__all__ = ["SCENES_DETECTOR", "RegionFeatures", "extract_regions", "import_regions"]
