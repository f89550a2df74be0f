# %% [markdown]
# # Label a collection
# A teacher writes pseudo-labels for photos that nobody was asked about. Put the folder or Hub id of your teacher in
# the place of `TEACHER`, and your folder of photos in that of `PHOTOS`; a `.txt` of a photo's name holds its captions,
# one a line. So that this runs on its own, in seconds and offline, the first cell trains a very small teacher on drawn
# scenes and draws 80 more as the collection. It learns little, and below it shows.

# %%
import json
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Features

import emocap
from emocap.regions import extract_regions
from emocap.scenes.body import make_body

FOLDER = Path("runs/label_a_collection")
TEACHER, PHOTOS, EXTRACTOR = str(FOLDER / "teacher"), FOLDER / "photos", "scenes"

scenes = emocap.load_scenes(num_target=300, num_source=80, num_labels=8)
PHOTOS.mkdir(parents=True, exist_ok=True)
for row in scenes["source"]:
    row["image"].save(PHOTOS / row["image_id"])
    (PHOTOS / row["image_id"]).with_suffix(".txt").write_text("\n".join(row["captions"]), "utf-8")
scenes = extract_regions(scenes, EXTRACTOR, FOLDER / "scenes")
make_body(scenes, FOLDER / "body")
recipe = {"pooling": "mean", "learning_rate": 1e-3, "num_train_epochs": 4, "disable_tqdm": True}
emocap.train_teacher(scenes, FOLDER / "body", TEACHER, region_extractor=EXTRACTOR, **recipe)

# %% [markdown]
# ## The collection as a table
# Photos that cannot be read are left out and listed. The regions must come from the extractor that the teacher learned
# with.

# %%
photos = emocap.load_photos(PHOTOS)
tables = extract_regions(photos, EXTRACTOR, FOLDER / "regions")
print(len(tables["train"]), "photos;", tables["train"][0]["captions"])

# %% [markdown]
# ## Labels
# Every caption of a photo is scored beside it, and the logits are averaged. `emotion_scores` are the teacher's
# probabilities (soft labels), `emotions` the best of them (hard labels). Several teachers label together: a list.

# %%
labelled = emocap.label(tables, TEACHER, FOLDER / "labelled", labels_per_image=3)
names = labelled["train"].features["emotions"].feature.names
first = labelled["train"][0]
scores = dict(zip(names, np.round(first["emotion_scores"], 3).tolist(), strict=True))
print([names[label] for label in first["emotions"]], scores)
print("captions differ by", round(first["caption_disagreement"], 3), "(standard deviation of their probabilities)")

# %% [markdown]
# ## Look before you train on them
# A teacher that learned nothing says the same of every photo: its scores hardly spread (`score_sd`) and one set of
# emotions is everywhere. `labels.html` in the folder shows all this, and the surest pictures of each emotion.

# %%
statistics = json.loads((FOLDER / "labelled" / "label_statistics.json").read_text("utf-8"))
columns = ["images", "share", "prevalence", "score_mean", "score_sd", "score_max"]
print(pd.DataFrame.from_dict(statistics["emotions"], orient="index")[columns].round(3))
print(statistics["distinct_sets"], "sets of emotions; the most common has", statistics["most_common_set_share"])

# %% [markdown]
# ## Other labels from the same scores
# Which scores become labels is a step of its own: here the 10 best photos of each emotion, of those among a photo's
# best three.

# %%
scores = np.array(labelled["train"]["emotion_scores"][:])
selected = emocap.select_pseudo_labels(scores, labels_per_image=3, images_per_label=10)
print({name: len(images) for name, images in zip(names, selected.label_images, strict=True)})

# %% [markdown]
# ## As a function of batches
# The same scores in `Dataset.map`, which caches them, or over a stream.

# %%
labels = emocap.PseudoLabels(TEACHER)
few = tables["train"].select(range(20))
few = few.map(labels, batched=True, with_rank=True, features=Features(few.features | labels.features))
apart = np.abs(np.array(few["emotion_scores"][:]) - scores[:20]).max()
print("largest difference from the table above:", apart)

# %% [markdown]
# ## On from here
# `emocap.train_student(labelled, ...)` learns from them. For other software, a row a photo:

# %%
table = pd.DataFrame(scores, columns=names)
table.insert(0, "image", labelled["train"]["image_id"][:])
table.to_csv(FOLDER / "labels.csv", index=False)
print(table.head(3).round(3))
