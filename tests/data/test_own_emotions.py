"""From a folder of photos and a CSV of seven own emotions to a teacher that reads photos by itself."""

import csv
import json

import numpy as np
from PIL import Image

from emocap.cli import main
from emocap.data.storage import load_table

OWN = ["calm", "curious", "proud", "homesick", "amused", "uneasy", "tender"]


def test_own_emotions_become_a_teacher(tmp_path, tiny_body, rng, capsys):
    photos = tmp_path / "album" / "photos"
    photos.mkdir(parents=True)
    with open(tmp_path / "album" / "pairs.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["photo", "caption", "emotions"])
        for number in range(50):
            Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(photos / f"{number}.jpg")
            named = {OWN[number % 7], OWN[rng.integers(7)]}
            writer.writerow([f"photos/{number}.jpg", f"a dog at the house {number}", "|".join(sorted(named))])
    pairs, regions, teacher = (str(tmp_path / name) for name in ("pairs", "regions", "teacher"))
    main(["data", "pairs", str(tmp_path / "album" / "pairs.csv"), "--output_dir", pairs])
    main(["regions", pairs, "--extractor", "scenes", "--output_dir", regions])
    table = load_table(regions)
    assert {name: len(part) for name, part in table.items()} == {"train": 35, "validation": 5, "test": 10}
    assert all(number > 0 for part in table.values() for number in part["num_regions"])
    main(["train-teacher", "--dataset", regions, "--model_name_or_path", tiny_body, "--region_extractor", "scenes",
          "--reinit_visual_projection", "--max_steps", "2", "--use_cpu", "--disable_tqdm", "true",
          "--output_dir", teacher])  # fmt: skip
    config = json.loads((tmp_path / "teacher" / "config.json").read_text())
    assert sorted(config["id2label"].values()) == sorted(OWN)
    assert json.loads((tmp_path / "teacher" / "metrics.json").read_text())["num_examples"] == 10
    capsys.readouterr()
    main(["predict", teacher, "--image", str(photos / "0.jpg"), "--caption", "a dog", "--top_k", "7"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert sorted(row["label"] for row in rows) == sorted(OWN)
