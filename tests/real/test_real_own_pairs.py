"""Socratis' cleaned CSV and OASIS' norms, read as anybody's pairs would be."""

import pytest

from emocap import load_pairs, load_socratis
from emocap.data.schema import label_names

pytestmark = pytest.mark.real_data


def test_socratis_as_own_pairs(real_data):
    source = real_data / "socratis" / "cleaned.csv"
    expected, found = load_socratis(source), load_pairs(source)
    assert list(found) == list(expected) and set(label_names(found)) == set(label_names(expected))
    for split, part in expected.items():
        for column in ("image_id", "captions"):
            assert found[split][column][:] == part[column][:]
        named = [
            [{label_names(table)[label] for label in own} for own in table[split]["emotions"][:]]
            for table in (found, expected)
        ]
        assert named[0] == named[1]


def test_oasis_as_own_pairs_without_labels(real_data):
    folder = real_data / "oasis"
    with pytest.raises(ValueError, match="has no column that is plainly the labels"):
        load_pairs(folder / "metadata.csv", images_dir=folder / "images")
    table = load_pairs(
        folder / "metadata.csv", images_dir=folder / "images", labels_column="none", group_column="theme"
    )
    assert list(table) == ["train"] and table["train"].data.column("image").null_count == 0
