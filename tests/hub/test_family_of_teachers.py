"""Teachers that are published together say how they answer together, and do so where emocap is not installed."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import DatasetCard, ModelCard
from PIL import Image
from transformers import AutoModel, pipeline

from emocap.cli import main
from emocap.hub.family import committee_of, find_family


@pytest.fixture(scope="module")
def teachers(family, tmp_path_factory, tiny_table_dir) -> Path:
    """A folder with two teachers and what they label together."""
    folder = tmp_path_factory.mktemp("committee")
    for name in ("seed0", "seed1"):
        shutil.copytree(family / "teacher", folder / name)
    model = AutoModel.from_pretrained(folder / "seed1")
    with torch.no_grad():
        model.classifier.bias.normal_(0, 20)  # the temperature is high
    model.save_pretrained(folder / "seed1")
    main(["label", tiny_table_dir, "--teacher", str(folder / "seed0"), str(folder / "seed1"), "--output_dir",
          str(folder / "labelled")])  # fmt: skip
    return folder


SNIPPET = """
import json
from PIL import Image
Image.effect_noise((60, 40), 90).save("party.jpg")
exec(json.loads(sys.argv[1]))
print("RESULT" + json.dumps(committee({"image": Image.new("RGB", (60, 40), "red"), "text": "rain"})))
"""


def test_cards_of_a_committee(teachers, run_without_emocap):
    prefix = f"c{os.urandom(4).hex()}"
    main(["publish-family", str(teachers), "--namespace", "acme", "--prefix", prefix])
    ids = [f"acme/{prefix}-{name}" for name in ("seed0", "seed1")]
    cards = [*map(ModelCard.load, ids), DatasetCard.load(f"acme/{prefix}-labelled")]
    for card in cards:
        assert f"emocap label TABLE --teacher {ids[0]} {ids[1]} --output_dir LABELLED" in card.text
    for repo_id in ids:
        assert f"/{repo_id}) (revision" in cards[2].text
    assert "`model_disagreement` is the standard deviation" in cards[2].text
    assert str(teachers) not in "".join(card.text for card in cards)
    (snippet,) = [
        code
        for code in re.findall(r"^```python\n(.*?)^```", cards[1].text, re.DOTALL | re.MULTILINE)
        if "committee=" in code
    ]
    rows = run_without_emocap(SNIPPET, snippet)
    local = pipeline(
        "emotion-recognition", model=str(teachers / "seed0"), committee=[teachers / "seed1"], device="cpu"
    )
    expected = local({"image": Image.new("RGB", (60, 40), "red"), "text": "rain"})
    assert [row["label"] for row in rows] == [row["label"] for row in expected]
    for row, own in zip(rows, expected, strict=True):
        assert (row["score"], row["disagreement"]) == pytest.approx((own["score"], own["disagreement"]), abs=1e-5)
    assert max(row["disagreement"] for row in rows) > 0.01


def test_only_teachers_of_the_same_emotions_are_a_committee(teachers, family, tmp_path):
    assert committee_of(find_family(teachers)) == [teachers / "seed0", teachers / "seed1"]
    assert committee_of(find_family(family)) == []
    for name in ("seed0", "seed1"):
        shutil.copytree(teachers / name, tmp_path / name)
    config = json.loads((tmp_path / "seed1" / "config.json").read_text())
    config["id2label"]["0"] = "envy"
    (tmp_path / "seed1" / "config.json").write_text(json.dumps(config))
    assert committee_of(find_family(tmp_path)) == []
