# %% [markdown]
# # Read a transfer study
# Does a student that learned from pseudo-labels of a source do better on few human labels of a target? `emocap
# transfer-study` answers with many small trainings; this notebook reads what it leaves. Put the folder of a finished
# study in the place of `STUDY`. So that this runs on its own, in seconds and offline, the first cell runs a very small
# study on drawn scenes: its numbers mean nothing.

# %%
import json
from pathlib import Path

import pandas as pd
from datasets import DatasetDict

import emocap
from emocap.regions import extract_regions
from emocap.report.drawing import save_figure
from emocap.report.figures import transfer_figure
from emocap.scenes.body import make_body
from emocap.studies.options import TransferArguments
from emocap.studies.transfer_report import study_table, write_study
from emocap.studies.transfer_study import TransferStudy

FOLDER = Path("runs/read_a_transfer_study")
STUDY = FOLDER / "study"

if not (STUDY / "study.json").is_file():
    scenes = emocap.load_scenes(num_target=300, num_source=100, num_labels=8)
    scenes = extract_regions(scenes, "scenes", FOLDER / "regions")
    make_body(scenes, FOLDER / "body")
    recipe = {"pooling": "mean", "learning_rate": 1e-3, "num_train_epochs": 3, "disable_tqdm": True}
    teacher = emocap.train_teacher(scenes, FOLDER / "body", FOLDER / "teacher", **recipe)
    emocap.label(DatasetDict({"train": scenes["source"]}), teacher, FOLDER / "labelled")
    study = TransferStudy(
        TransferArguments(
            output_dir=str(STUDY),
            source_dataset=str(FOLDER / "labelled"),
            target_dataset=str(FOLDER / "regions"),
            word_embeddings=str(FOLDER / "body"),
            freeze_word_embeddings=False,
            image_size=16,
            cnn_channels=[8],
            hidden_size=16,
            directions=["source_to_target"],
            strategies=["scratch", "anb", "anb+", "bnb+", "bnb+ matched"],
            num_layers=["2", "all"],
            sizes=[50],
            num_seeds=2,
            max_steps=20,
            base_steps=30,
            num_evaluations=2,
        )
    )
    study.perform_all()
    write_study(study)

# %% [markdown]
# ## What was trained
# Each row is one way to start a student on `size` rows of the target, over several seeds. **AnB** copies `num_layers`
# layers of the network that learned the source and freezes them; **AnB+** copies and trains them on. **scratch**
# copies nothing. **BnB+** starts from a network of the same target rows, and **BnB+ matched** from one that took as
# many steps on them as the source's took (**scratch matched**): what is left over that control comes from the source,
# not from longer training.

# %%
content = json.loads((STUDY / "study.json").read_text("utf-8"))
rows, metric = content["rows"], content["metric"]
table = pd.DataFrame(rows)
print(metric, "on the test split; the prior has", round(rows[0]["prior"], 3))
print(table[["direction", "size", "strategy", "num_layers", "mean", "low", "high"]].round(3).to_string(index=False))

# %% [markdown]
# ## Did the source help?
# A gain is paired seed by seed. It has two intervals: over seeds (`low`, `high`: would other draws of rows and weights
# say so?) and over test pictures (`low_images`, `high_images`: would other pictures?). Only where both are clear of 0
# is it told as a gain, and at 95 % one interval in twenty is clear of 0 by chance.


# %%
def is_clear(gain: dict) -> bool:
    bounds = [gain[name] for name in ("low", "high", "low_images", "high_images")]
    return None not in bounds and (min(bounds) > 0 or max(bounds) < 0)


CONTROLS = {"over_scratch": "scratch", "over_bnb_plus": "BnB+", "over_bnb_plus_matched": "BnB+ matched"}
gains = []
for row in rows:
    for key, control in CONTROLS.items():
        if row["strategy"] in ("anb", "anb+") and key in row:
            names = {"strategy": row["strategy"], "layers": row["num_layers"], "size": row["size"]}
            gains.append(names | {"over": control, **row[key], "clear": is_clear(row[key])})
gains = pd.DataFrame(gains)
print(gains.round(3).to_string(index=False))
print(f"{gains['clear'].sum()} of {len(gains)} gains are clear of 0; by chance about {len(gains) / 20:.1f} would be")

# %% [markdown]
# ## What freezing costs
# AnB over AnB+ at the same number of layers: below 0 where the frozen layers were too much the source's own.

# %%
for row in rows:
    if "over_anb_plus" in row:
        print(f"{row['num_layers']} layers: {row['over_anb_plus']['mean']:+.3f}")

# %% [markdown]
# ## Equal length
# Steps that each network took, the ones of its base network first. Gains over a control of fewer steps flatter.

# %%
print(table[["strategy", "num_layers", "base_steps", "steps"]].to_string(index=False))

# %% [markdown]
# ## Figure and table
# Dots are seeds, lines their means. `report.html` in the study's folder shows the figure over a table that sorts;
# `study.md` is the table in Markdown. Gains that are clear of 0 are in bold.

# %%
save_figure(transfer_figure(rows, metric), FOLDER / "transfer.png")
(FOLDER / "transfer.md").write_text(study_table(rows, metric) + "\n", "utf-8")
print(study_table(rows, metric).splitlines()[-1])
