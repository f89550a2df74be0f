# %% [markdown]
# # Use a model
# What a trained model of emocap says of photos and captions, and how to read it. Any teacher or student will do: put
# its folder or Hub id in the place of `MODEL`. So that this runs on its own, in seconds and offline, the first cell
# trains a very small teacher on drawn scenes, which knows eight emotions and little of them.

# %%
from pathlib import Path

from transformers import AutoModel, AutoProcessor, pipeline

import emocap
from emocap.evaluation.folder import predict_folder
from emocap.regions import extract_regions
from emocap.report.drawing import save_figure
from emocap.report.figures import prediction_figure
from emocap.scenes.body import make_body

FOLDER = Path("runs/use_a_model")
scenes = emocap.load_scenes(num_target=300, num_source=40, num_labels=8)
scenes = extract_regions(scenes, "scenes", FOLDER / "regions")
make_body(scenes, FOLDER / "body")
recipe = {"pooling": "mean", "learning_rate": 1e-3, "num_train_epochs": 4, "disable_tqdm": True}
teacher = emocap.train_teacher(scenes, FOLDER / "body", FOLDER / "teacher", region_extractor="scenes", **recipe)
MODEL = str(FOLDER / "teacher")

# %% [markdown]
# ## A photo, a caption, or both
# The pipeline takes a pair, or a list, generator or data set of pairs. A photo is a PIL image, path, URL or array.
# Scores are probabilities that the crowd names an emotion at all: they do not sum to 1.

# %%
pair = scenes["test"][0]
photos = FOLDER / "photos"
photos.mkdir(exist_ok=True)
for row in scenes["test"].select(range(6)):
    row["image"].save(photos / Path(row["image_id"]).with_suffix(".png"))
    (photos / Path(row["image_id"]).with_suffix(".txt")).write_text(row["captions"][0], "utf-8")

pipe = pipeline("emotion-recognition", model=MODEL)
both = pipe({"image": pair["image"], "text": pair["captions"][0]}, top_k=3)
words = pipe({"text": pair["captions"][0]}, top_k=3)
for name, rows in (("photo and caption", both), ("caption alone", words)):
    print(name, {row["label"]: round(row["score"], 3) for row in rows})

# %% [markdown]
# ## Yes or no
# `threshold="config"` keeps the emotions above the thresholds that training fitted on validation rows; a list may then
# be empty.

# %%
pairs = [{"image": row["image"], "text": row["captions"][0]} for row in scenes["test"].select(range(6))]
for row, answer in zip(scenes["test"], pipe(pairs, batch_size=3, threshold="config"), strict=False):
    print(row["captions"][0], "->", [own["label"] for own in answer])

# %% [markdown]
# ## Why
# Integrated gradients: the weights of words and boxes add up to the logit less that of an empty pair.

# %%
reasons = pipe({"image": pair["image"], "text": pair["captions"][0]}, explain=True)[0]["explanation"]
weights = sum(reasons["token_weights"]) + sum(reasons["box_weights"])
print("words", dict(zip(reasons["tokens"], (round(weight, 3) for weight in reasons["token_weights"]), strict=True)))
print("sum of weights", round(weights, 3), "= logit", round(reasons["logit"] - reasons["baseline_logit"], 3))

# %% [markdown]
# ## Beside the prior
# An emotion that half of all pictures raise is no discovery at .5. `label_prevalence` holds each emotion's share of
# the training rows; the figure shows it as an upright tick.

# %%
rows = pipe({"image": pair["image"], "text": pair["captions"][0]})
config = pipe.model.config
prior = dict(zip(config.id2label.values(), config.label_prevalence, strict=True))
lead = max(rows, key=lambda row: row["score"] - prior[row["label"]])
print(f"furthest above its prior: {lead['label']}, {lead['score']:.3f} against {prior[lead['label']]:.3f}")
save_figure(prediction_figure(rows, prior, pair["captions"][0], pair["image"]), FOLDER / "prediction.png")

# %% [markdown]
# ## A folder in, a file out
# One row a photo, with the caption of the `.txt` of its name; a killed job goes on where it was.

# %%
report = predict_folder(MODEL, photos, FOLDER / "answers.csv")
print(report["counts"], (FOLDER / "answers.csv").read_text("utf-8").splitlines()[0])

# %% [markdown]
# ## Without the pipeline
# A model gives logits, a processor what it reads. Where emocap is not installed, `trust_remote_code=True` loads the
# code that the checkpoint brings.

# %%
model, processor = AutoModel.from_pretrained(MODEL).eval(), AutoProcessor.from_pretrained(MODEL)
probabilities = model(**processor(text=pair["captions"][0])).logits.sigmoid()[0]
print({config.id2label[label]: round(value, 3) for label, value in enumerate(probabilities.tolist())})
