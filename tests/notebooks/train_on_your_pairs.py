# %% [markdown]
# # Train on your pairs
# From a CSV file of photos, captions and emotions to a teacher, its figures and a page. To use your own, put its path
# in the place of `PAIRS`, an encoder of photos such as `vision:google/siglip-base-patch16-224` in that of `EXTRACTOR`,
# and a text encoder such as `sentence-transformers/all-mpnet-base-v2` (with `fusion="late"`) in that of `BODY`. So
# that this runs on its own, in seconds and offline, the first cell draws an album of 300 scenes.

# %%
import csv
from pathlib import Path

from transformers import pipeline

import emocap
from emocap.regions import extract_regions
from emocap.report.page import write_report
from emocap.scenes.body import make_body

FOLDER = Path("runs/train_on_your_pairs")
PAIRS, EXTRACTOR, BODY = FOLDER / "album" / "pairs.csv", "scenes", FOLDER / "body"

drawn = emocap.load_scenes(num_target=300, num_source=0, num_labels=8)
names = drawn["train"].features["labels"].feature, drawn["train"].features["emotions"].feature.names
(FOLDER / "album" / "photos").mkdir(parents=True, exist_ok=True)
with open(PAIRS, "w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(["image", "caption", "emotions"])
    for split in ("train", "validation", "test"):
        for row in drawn[split]:
            row["image"].save(FOLDER / "album" / "photos" / row["image_id"])
            emotions = ", ".join(names[1][label] for label in row["emotions"])
            writer.writerow([f"photos/{row['image_id']}", row["captions"][0], emotions])
print(PAIRS.read_text("utf-8").splitlines()[1])

# %% [markdown]
# ## The table
# Columns are guessed where only one can be meant, and else asked for (`image_column="..."`). Splits are drawn by
# image; give `group_column` where several photos show one thing, so that it is not in training and test at once.
# Rows that name no emotion are left out.

# %%
pairs = emocap.load_pairs(PAIRS)
print({name: len(split) for name, split in pairs.items()}, pairs["train"].features["emotions"].feature.names)

# %% [markdown]
# ## Regions
# What the teacher sees of a photo: 36 regions at most, extracted once. A killed job goes on where it was.

# %%
tables = extract_regions(pairs, EXTRACTOR, FOLDER / "regions")

# %% [markdown]
# ## The teacher
# It starts here from an untrained body of the album's own words, which is all that is at hand offline. Options are the
# flags of `emocap train-teacher`. With `region_extractor` the checkpoint reads photos by itself afterwards.

# %%
make_body(tables, BODY)
recipe = {"pooling": "mean", "learning_rate": 1e-3, "num_train_epochs": 6, "disable_tqdm": True}
teacher = emocap.train_teacher(tables, BODY, FOLDER / "teacher", region_extractor=EXTRACTOR, **recipe)

# %% [markdown]
# ## Is it any good?
# `map_macro` ranks the pictures of each emotion. Beside it stand the constant answer (the prior) and what random
# scores would have; the interval is over other pictures of the same kind. With few pictures it is wide: believe it.
# `emocap.evaluate(teacher, tables, controls=True)` adds simple models of words and pictures alone.

# %%
low, high = teacher.interval("map_macro")
print(f"map_macro {teacher['map_macro']:.3f} ({low:.3f} to {high:.3f}), {teacher['num_examples']} test pictures")
print(f"the prior {teacher.prior('map_macro'):.3f}, chance {teacher.chance:.3f}; few pictures: {teacher.is_few}")

# %% [markdown]
# ## The page
# Tables, curves, reliability, mistaken emotions, best and worst pictures in one file that needs nothing else.

# %%
write_report(FOLDER / "report.html", title="My album", runs={"teacher": FOLDER / "teacher"}, tables=tables)

# %% [markdown]
# ## Use it
# `emocap publish runs/train_on_your_pairs/teacher --repo_id me/my-emotions --private` takes it to the Hub.

# %%
pipe = pipeline("emotion-recognition", model=str(FOLDER / "teacher"))
first = tables["test"][0]
print(first["captions"][0], pipe({"image": first["image"], "text": first["captions"][0]}, top_k=3))
