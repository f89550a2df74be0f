"""Training of a captioner through the command line: what it learns, what it leaves behind, that it goes on."""

import json
import shutil
from copy import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, pipeline

from emocap.captions import fold_wishes
from emocap.cli import main
from emocap.data.captions import CaptionDataset, caption_scores
from emocap.data.schema import pair_features, region_columns
from emocap.data.storage import load_table
from emocap.metrics.captions import cider_d
from emocap.models import EmocapCaptionerForConditionalGeneration, EmocapCaptionerProcessor, EmocapProcessor
from emocap.steps import evaluate
from emocap.training.sampling import PairSampler
from emocap.training.wishes import DrawnWishes, draw_wishes, wish_statistics
from tests.conftest import EMOTIONS, NUM_REGIONS, REGION_DIM, WORDS
from tests.training.conftest import SCORES

SIZES = {"train": 512, "validation": 50, "test": 60}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def grounded_table(number: int, rng: np.random.Generator) -> Dataset:
    """Captions whose noun the photo tells, and whose last word the emotion."""
    things, kinds = rng.integers(0, 2, number), rng.integers(0, 5, number)
    features = rng.normal(size=(number, NUM_REGIONS, REGION_DIM)) + np.where(things, 2, -2)[:, None, None]
    captions = [
        [f"the {('dog', 'child')[thing]} at a {rng.choice(WORDS[EMOTIONS[kind]])}"]
        for thing, kind in zip(things, kinds, strict=True)
    ]
    scores = rng.uniform(0.05, 0.2, (number, 1, 5))
    scores[np.arange(number), 0, kinds] += 0.7
    columns = {
        "image_id": [str(row) for row in range(number)],
        "image": [None] * number,
        "captions": captions,
        "labels": [None] * number,
        "emotions": [[int(kind)] for kind in kinds],
        "region_features": list(features.astype(np.float16).reshape(number, -1)),
        "region_boxes": list(rng.random((number, NUM_REGIONS * 4), dtype=np.float32)),
        "num_regions": [4] * number,
        "caption_scores": scores.tolist(),
    }
    features = {**pair_features(EMOTIONS), **region_columns(REGION_DIM), "caption_scores": SCORES}
    return Dataset.from_dict(columns, Features(features))


def test_a_run_learns_to_read_wishes_and_photos(job, tmp_path, capsys, rng):
    tables = DatasetDict({name: grounded_table(size, rng) for name, size in SIZES.items()})
    tables.save_to_disk(tmp_path / "table")
    out = tmp_path / "run"
    main([*job, "--dataset", str(tmp_path / "table"), "--output_dir", str(out), "--random_weights",
          "--num_train_epochs", "25", "--head_learning_rate", "0.003", "--early_stopping_patience", "0"])  # fmt: skip
    metrics = json.loads((out / "metrics.json").read_text())
    losses = [metrics[key] for key in ("loss_with_all_emotions", "loss", "loss_without_wish")]
    # of six tokens one is open by three words, and without a wish by all fifteen
    assert losses == sorted(losses) and np.log(3) / 6 - 0.02 < losses[0] < 0.4 and losses[2] > np.log(15) / 6 - 0.02
    printed = capsys.readouterr().out
    assert all(f"{own:.4f}" in printed for own in losses)
    assert metrics["num_captions"] == metrics["num_examples"] == SIZES["test"] and metrics["split"] == "test"
    state = json.loads((out / "trainer_state.json").read_text())
    evaluated = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
    assert state["best_metric"] == min(evaluated) < evaluated[0] / 2
    model = EmocapCaptionerForConditionalGeneration.from_pretrained(out)
    processor = EmocapCaptionerProcessor.from_pretrained(out)
    pairs = CaptionDataset(tables["test"], processor)
    entries = []
    for pair in range(len(pairs)):  # one by one, from the saved checkpoint
        batch = {name: own[None] for name, own in pairs[pair].items()}
        labels = batch.pop("labels")[0]
        with torch.no_grad():
            told = model(**batch).logits[0].log_softmax(-1)
        entries += [-told[place - 1, labels[place]].item() for place in (labels != -100).nonzero().flatten()]
    assert metrics["loss_with_all_emotions"] == pytest.approx(np.mean(entries), abs=1e-4)
    arguments = json.loads((out / "run_arguments.json").read_text())
    assert arguments["kind"] == "captioner" and arguments["captions"] == "random"
    card = (out / "README.md").read_text()
    assert f"{metrics['loss']:.3f}" in card and "train-captioner" in card and "{{" not in card
    assert "pipeline_tag: image-text-to-text" in card
    regions = {name: pairs.__getitems__(range(10))[name].float() for name in ("visual_embeds", "region_boxes")}
    wishes = [*EMOTIONS, *EMOTIONS]
    written = model.generate(**processor(emotions=wishes, **regions), guidance_scale=2.0)
    texts = processor.batch_decode(written, skip_special_tokens=True)
    right = [any(word in text for word in WORDS[name]) for name, text in zip(wishes, texts, strict=True)]
    named = [row["captions"][0].split()[1] in text for row, text in zip(tables["test"], texts, strict=False)]
    assert sum(right) >= 9 and sum(named) >= 9, texts


@pytest.mark.parametrize("language_model_training", ["trained", "frozen", "lora"])
def test_resumed_it_has_the_weights_of_a_run_that_was_never_stopped(job, tmp_path, language_model_training):
    if language_model_training == "lora":
        pytest.importorskip("peft")
    steps = ["--save_strategy", "steps", "--save_steps", "2", "--eval_strategy", "steps", "--eval_steps", "2",
             "--save_total_limit", "9", "--train_sampling_strategy", "group_by_length",
             "--language_model", language_model_training, "--load_best_model_at_end", "false"]  # fmt: skip
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    main([*job, *steps, "--output_dir", str(whole)])
    shutil.copytree(whole / "checkpoint-2", stopped / "checkpoint-2")
    main([*job, *steps, "--output_dir", str(stopped), "--resume_from_checkpoint", "true"])
    first, second = weights(whole), weights(stopped)
    assert first.keys() == second.keys() and not any("lora" in name for name in first)
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_accumulated_batches_take_the_steps_of_whole_ones(job, tmp_path, language_model):
    flags = ["--num_train_epochs", "1", "--learning_rate", "0.2", "--head_learning_rate", "0.2", "--optim", "sgd"]
    sizes = {"whole": ("32", "1"), "parts": ("4", "8")}
    for name, (size, steps) in sizes.items():
        batches = ["--per_device_train_batch_size", size, "--gradient_accumulation_steps", steps]
        main([*job, *flags, *batches, "--label_smoothing", "0.1", "--output_dir", str(tmp_path / name)])
    whole, parts = (weights(tmp_path / name) for name in sizes)
    head = "lm_head.weight"
    assert (whole[f"language_model.{head}"][:-1] - weights(Path(language_model))[head]).abs().max() > 1e-3
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("language_model_training", ["frozen", "lora"])
def test_what_stands_still_and_what_the_adapters_become(job, tmp_path, language_model, language_model_training):
    if language_model_training == "lora":
        pytest.importorskip("peft")
    main([*job, "--output_dir", str(tmp_path / "run"), "--language_model", language_model_training])
    before, after = weights(Path(language_model)), weights(tmp_path / "run")
    moved = {name for name, own in before.items() if not torch.equal(own, after[f"language_model.{name}"][: len(own)])}
    linear = {name for name in before if "_proj" in name}
    assert moved == (linear if language_model_training == "lora" else set())
    EmocapCaptionerForConditionalGeneration.from_pretrained(tmp_path / "run")
    again = tmp_path / "again"
    main([*job, "--model_name_or_path", str(tmp_path / "run"), "--output_dir", str(again), "--max_length", "9"])
    first, second = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "run", again))
    assert first["wish_mean"] == second["wish_mean"] and second["caption_length"] == 9


@pytest.fixture
def pairs(captioned) -> CaptionDataset:
    from tests.conftest import make_tokenizer

    table = load_table(captioned)["train"]
    statistics = wish_statistics(caption_scores(table), EMOTIONS)
    return CaptionDataset(
        table, EmocapCaptionerProcessor(make_tokenizer(), emotions=EMOTIONS, max_length=6, **statistics)
    )


def test_pairs_without_a_picture_do_not_stand_beside_pairs_with_one(pairs):
    """Grouped by words alone, short captions with and without 36 regions shared steps that were padding mostly."""
    masked = copy(pairs)
    masked.region_counts = np.where(np.arange(len(pairs.region_counts)) % 3 == 0, pairs.region_counts, 0)
    shown = masked.__getitems__(range(len(masked)))["attention_mask"].sum(1).numpy()
    assert len(set((shown - masked.lengths).tolist())) == 1, "what every pair has beside them is not counted"

    def padding(**options) -> int:
        steps = shown[list(PairSampler(masked, pairs_a_step=8, seed=3, **options))].reshape(-1, 8)
        return int((steps.max(1, keepdims=True) - steps).sum())

    assert padding(by_length=True) < 0.2 * padding()


@pytest.mark.parametrize("start", [[], [4]])
def test_batches_are_what_the_processor_lays_out(pairs, captioned, rng, start):
    table, processor = load_table(captioned)["train"], pairs.processor
    processor.start_ids = start
    captions = [caption for own in table["captions"][:] for caption in own]
    rows = [row for row, own in enumerate(table["captions"][:]) for _ in own]
    scores = [each for own in table["caption_scores"][:] for each in own]
    assert len(pairs) == len(captions) and pairs.row_of_pair.tolist() == rows
    chosen = rng.choice(len(pairs), 7, replace=False)
    batch = pairs.__getitems__(chosen)
    counts = [table[rows[pair]]["num_regions"] for pair in chosen]
    for row, pair in enumerate(chosen):
        own = table[rows[pair]]
        alone = processor(
            text=[captions[pair]],
            emotion_scores=[scores[pair]],
            visual_embeds=np.array(own["region_features"], np.float32).reshape(1, 36, REGION_DIM)[:, : counts[row]],
            region_boxes=np.array(own["region_boxes"], np.float32).reshape(1, 36, 4)[:, : counts[row]],
        )
        words = processor.tokenizer(captions[pair], add_special_tokens=False)["input_ids"]
        before = [*start, *[processor.image_token_id] * (1 + counts[row])]
        assert alone["input_ids"].tolist() == [[*before, *words]]
        expected = [*before, *[*words, processor.end_token_id][:6]]
        seen = batch["attention_mask"][row].bool()
        assert batch["input_ids"][row][seen].tolist() == expected and seen[-1]
        assert batch["labels"][row][seen].tolist() == [-100] * len(before) + expected[len(before) :]
        assert (batch["labels"][row][~seen] == -100).all()
        assert batch["visual_attention_mask"][row].sum() == counts[row]
        torch.testing.assert_close(batch["visual_embeds"][row, : counts[row]].float(), alone["visual_embeds"][0])
        torch.testing.assert_close(batch["region_boxes"][row, : counts[row]], alone["region_boxes"][0])
        torch.testing.assert_close(batch["wish_levels"][row], alone["wish_levels"][0], atol=1e-4, rtol=1e-4)


def test_statistics_of_the_wishes(rng):
    scores = rng.uniform(0.01, 0.99, (500, 5))
    found = wish_statistics(scores, EMOTIONS)
    logits = np.log(scores) - np.log1p(-scores)
    np.testing.assert_allclose(found["wish_mean"], logits.mean(0), atol=1e-5)
    np.testing.assert_allclose(found["wish_spread"], logits.std(0), atol=1e-5)
    levels = (logits - logits.mean(0)) / logits.std(0)
    assert ((levels > np.array(found["wish_high"])).mean(0) == 0.02).all()


def test_drawn_wishes(pairs, rng):
    masks = draw_wishes(rng, (20000, 29), 0.25)
    shown = masks.sum(1)
    assert (shown == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert np.bincount(shown)[1:].all(), "from one emotion to all"
    assert np.ptp(masks.mean(0)) < 0.03, "each emotion alike"
    assert not draw_wishes(rng, (50, 29), 1.0).any() and draw_wishes(rng, (50, 29), 0.0).any(1).all()

    class Sampler:
        epoch = 0

    drawn = DrawnWishes(pairs, 0.2, 3, Sampler())
    first = drawn.masks().copy()
    batch = drawn.__getitems__([5, 2])
    assert torch.equal(batch["wish_mask"].bool(), torch.from_numpy(first[[5, 2]]))
    Sampler.epoch = 1
    assert not np.array_equal(drawn.masks(), first)
    Sampler.epoch = 0
    assert np.array_equal(DrawnWishes(pairs, 0.2, 3, Sampler()).masks(), first)


def test_label_smoothing_reaches_the_training(job, tmp_path):
    folders = {share: tmp_path / share for share in ("0", "0.3")}
    for share, folder in folders.items():
        main([*job, "--output_dir", str(folder), "--label_smoothing", share, "--num_train_epochs", "1"])
        assert json.loads((folder / "config.json").read_text())["label_smoothing"] == float(share)
    one, other = map(weights, folders.values())
    assert not torch.equal(one["soft_projection.1.weight"], other["soft_projection.1.weight"])


def test_the_best_checkpoint_may_be_the_one_that_writes_like_people(job, tmp_path, rng, captioned):
    tables = DatasetDict({name: grounded_table(size, rng) for name, size in SIZES.items()})
    tables.save_to_disk(tmp_path / "table")
    out = tmp_path / "run"
    main([*job, "--dataset", str(tmp_path / "table"), "--output_dir", str(out), "--random_weights",
          "--num_train_epochs", "5", "--head_learning_rate", "0.003", "--save_total_limit", "9",
          "--metric_for_best_model", "cider_d"])  # fmt: skip
    state = json.loads((out / "trainer_state.json").read_text())
    likeness = {entry["step"]: entry["eval_cider_d"] for entry in state["log_history"] if "eval_cider_d" in entry}
    best = max(likeness.values())
    assert len(likeness) == 5 and min(likeness.values()) < best == state["best_metric"]
    model = EmocapCaptionerForConditionalGeneration.from_pretrained(out)
    processor = EmocapCaptionerProcessor.from_pretrained(out)
    rows, written = tables["validation"], []
    for row in rows:
        regions = np.array(row["region_features"], np.float32).reshape(1, NUM_REGIONS, -1)[:, : row["num_regions"]]
        boxes = np.array(row["region_boxes"], np.float32).reshape(1, NUM_REGIONS, 4)[:, : row["num_regions"]]
        ids = model.generate(**processor(visual_embeds=regions, region_boxes=boxes))
        written.append(processor.batch_decode(ids, skip_special_tokens=True)[0])
    assert best == pytest.approx(cider_d(written, rows["captions"]).mean(), abs=1e-3)
    blind = DatasetDict({name: own.map(lambda row: {"num_regions": 0}) for name, own in tables.items()})
    blind.save_to_disk(tmp_path / "blind")
    with pytest.raises(SystemExit, match="2"):
        main([*job, "--dataset", str(tmp_path / "blind"), "--output_dir", str(tmp_path / "other"),
              "--metric_for_best_model", "cider_d"])  # fmt: skip


@pytest.mark.parametrize(
    "flags, told",
    [
        (["--max_length", "70"], "96 positions; a start, a wish, 36 regions and --max_length 70 tokens need 108"),
        (["--metric_for_best_model", "bce"], "--metric_for_best_model is bce; it may be loss or cider_d"),
        (["--label_smoothing_factor", "0.1"], "use --label_smoothing"),
        (["--language_model", "frozen", "--random_weights"], "are not to be kept"),
        (["--no_wish_share", "1.5"], "--no_wish_share is 1.5"),
    ],
)
def test_bad_options_are_told(job, tmp_path, capsys, flags, told):
    with pytest.raises(SystemExit) as stop:
        main([*job, "--output_dir", str(tmp_path / "run"), *flags])
    assert stop.value.code == 2 and told in capsys.readouterr().err


def test_bad_tables_are_told(job, tmp_path, capsys, captioned, tiny_table_dir, tiny_teacher, tiny_bert):
    def refused(tables: DatasetDict | str, *flags: str) -> str:
        if not isinstance(tables, str):
            folder = str(tmp_path / f"table{len(list(tmp_path.iterdir()))}")
            tables.save_to_disk(folder)
            tables = folder
        with pytest.raises(SystemExit) as stop:
            main([*job, "--dataset", tables, "--output_dir", str(tmp_path / "run"), *flags])
        assert stop.value.code == 2
        return capsys.readouterr().err

    tables = load_table(captioned)
    assert "no column 'caption_scores', which `emocap label` writes" in refused(tiny_table_dir)
    assert "no column 'region_features'" in refused(tables.remove_columns(["region_features"]))
    apart = tables["train"].map(lambda row: {"captions": [*row["captions"], "one more"]})
    assert "60 rows of the train split have other numbers" in refused(DatasetDict({**tables, "train": apart}))
    mute = tables["train"].map(lambda row: {"captions": [], "caption_scores": []}, features=tables["train"].features)
    assert "no caption to learn from" in refused(DatasetDict({**tables, "train": mute}))
    assert "'emocap_teacher' checkpoint; expected a causal" in refused(captioned, "--model_name_or_path", tiny_teacher)
    assert "'bert' checkpoint; expected a causal" in refused(captioned, "--model_name_or_path", tiny_bert)
    main([*job, "--output_dir", str(tmp_path / "captioner"), "--num_train_epochs", "1"])
    capsys.readouterr()
    with pytest.raises(ValueError, match="'emocap_captioner' checkpoint; expected an emocap teacher or student"):
        evaluate(str(tmp_path / "captioner"), captioned)
    renamed = DatasetDict()
    for name, table in tables.items():
        own = table.features.copy()
        own["emotions"].feature.names = [*EMOTIONS[:4], "bored"]
        own["emotions"].feature._str2int = {label: place for place, label in enumerate(own["emotions"].feature.names)}
        renamed[name] = table.cast(own)
    start = ["--model_name_or_path", str(tmp_path / "captioner")]
    assert "was trained on 5 other emotions" in refused(renamed, *start)


def best_of_candidates(run: Path, photos: Path, tiny_teacher: str, tmp_path: Path, capsys) -> None:
    """The best two of six drawn captions to a judge of words, and to one of photos and words, which needs regions."""
    for name, emotions in (("words", EMOTIONS), ("others", ["joy", *EMOTIONS[1:]])):
        teacher = AutoModel.from_pretrained(tiny_teacher)
        teacher.config.id2label = dict(enumerate(emotions))
        teacher.config.label2id = {label: place for place, label in enumerate(emotions)}
        teacher.config.modalities = "text"
        torch.nn.init.normal_(teacher.classifier.weight)
        teacher.save_pretrained(tmp_path / name)
        EmocapProcessor.from_pretrained(tiny_teacher).save_pretrained(tmp_path / name)
    shutil.copytree(tmp_path / "words", tmp_path / "both")
    seeing = EmocapProcessor.from_pretrained(tmp_path / "words", region_extractor=str(tmp_path / "extractor"))
    seeing.save_pretrained(tmp_path / "both")
    config = json.loads((tmp_path / "both" / "config.json").read_text())
    (tmp_path / "both" / "config.json").write_text(json.dumps(config | {"modalities": "both"}))
    (tmp_path / "ekman.yaml").write_text("sadness: [sad, curious]\nanger: angry\njoy: happy\nsurprise: null\n")
    own = ["--emotion", "sadness=.5", "curious", "--away_from", "anger", "--label_map", str(tmp_path / "ekman.yaml"),
           "--num_candidates", "6", "--num_captions", "2", "--guidance_scale", "1.5", "--seed", "4"]  # fmt: skip
    given = {"emotions": {"sad": 0.5, "curious": 1.0}, "away_from": ["angry"]}
    model = EmocapCaptionerForConditionalGeneration.from_pretrained(run)
    processor = EmocapCaptionerProcessor.from_pretrained(run)
    for judge in ("words", "both"):
        main(["caption", str(run), "--image", str(photos / "a.jpg"), *own, "--judge", str(tmp_path / judge)])
        row = json.loads(capsys.readouterr().out)
        assert {name: row[name] for name in given} == given
        pipe = pipeline("emotion-recognition", model=str(tmp_path / judge))
        inputs = processor(images=row["image"], emotions=given["emotions"], away_from=("angry",))
        unwished = processor(images=row["image"])
        torch.manual_seed(4)
        drawn = model.generate(**inputs, guidance_scale=1.5, do_sample=True, num_return_sequences=6)
        texts, likely, wished = [], [], []
        for ids in drawn[:, inputs["input_ids"].shape[1] :].tolist():
            ids = ids[: ids.index(processor.end_token_id) + 1] if processor.end_token_id in ids else ids
            texts.append(processor.decode(ids, skip_special_tokens=True).strip())
            whole = torch.cat([unwished["input_ids"], torch.tensor([ids])], 1)
            regions = {name: unwished[name] for name in unwished if "region" in name or "visual" in name}
            told = model(input_ids=whole, **regions).logits[0, -len(ids) - 1 : -1].log_softmax(-1)
            likely.append(told[range(len(ids)), ids].mean().item())
            found = {own["label"]: own["score"] for own in pipe({"image": row["image"], "text": texts[-1] or "."})}
            wished.append(0.5 * np.log(found["sad"]) + np.log(found["curious"]) + np.log(1 - found["angry"]))
        scores = sum((np.array(own) - np.mean(own)) / np.std(own) for own in (likely, wished))
        ranked = list(dict.fromkeys(texts[place] for place in np.argsort(-scores)))
        assert len(set(texts)) > 2 and all(texts) and row["captions"] == ranked[:2]


@pytest.mark.parametrize(
    "wishes, told",
    [
        ({"envy": 1.0}, "no emotion 'envy'; the label map and the captioner know joy, fear, .*happy, sad"),
        ({"fear": 1.0}, "The label map drops fear"),
        ({"sad": 1.0}, None),
    ],
)
def test_wishes_of_other_emotions(wishes, told):
    folds = {"joy": ["happy", "excited"], "fear": [], "rage": ["angry"], "sadness": ["sad"]}
    if told:
        with pytest.raises(ValueError, match=told):
            fold_wishes(wishes, folds, EMOTIONS)
    else:
        assert fold_wishes(wishes, folds, EMOTIONS) == wishes
        several = {"joy": 0.5, "happy": 2.0, "fear": 1.0, "rage": 0.1}
        assert fold_wishes(several, folds, EMOTIONS) == {"happy": 2.0, "excited": 0.5, "angry": 0.1}
        with pytest.raises(ValueError, match="makes 'joy' 'glee', but the captioner knows happy"):
            fold_wishes(wishes, {"joy": ["glee"]}, EMOTIONS)


def test_emocap_caption_writes_a_line_a_photo(job, tmp_path, capsys, rng, tiny_teacher):
    from tests.models.test_regions import make_extractor

    make_extractor(feature_dim=REGION_DIM).save_pretrained(tmp_path / "extractor")
    run = tmp_path / "run"
    main([*job, "--output_dir", str(run), "--region_extractor", str(tmp_path / "extractor")])
    capsys.readouterr()
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("b.png", "a.jpg"):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(photos / name)
    (photos / "c.png").write_bytes(b"no photo")
    out = tmp_path / "captions.jsonl"
    main(["caption", str(run), "--image", str(photos), "--emotion", "sad", "--emotion", "curious=.5",
          "--away_from", "angry", "--guidance_scale", "1.5", "--num_beams", "2", "--num_captions", "2",
          "--output", str(out)])  # fmt: skip
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [Path(row["image"]).name for row in rows] == ["a.jpg", "b.png", "c.png"]
    assert "error" in rows[2] and "captions" not in rows[2]
    model = EmocapCaptionerForConditionalGeneration.from_pretrained(run)
    processor = EmocapCaptionerProcessor.from_pretrained(run)
    for row in rows[:2]:
        assert row["emotions"] == {"sad": 1.0, "curious": 0.5} and row["away_from"] == ["angry"]
        inputs = processor(images=row["image"], emotions=row["emotions"], away_from=("angry",))
        written = model.generate(**inputs, guidance_scale=1.5, num_beams=2, num_return_sequences=2)
        assert row["captions"] == processor.batch_decode(written, skip_special_tokens=True)
    best_of_candidates(run, photos, tiny_teacher, tmp_path, capsys)
    main(["caption", str(run), "--image", str(photos / "a.jpg"), "--text", "the dog"])
    assert json.loads(capsys.readouterr().out)["captions"][0].startswith("the dog")
    for flags, told in (
        (["--emotion", "gloomy"], "no emotion 'gloomy'; the captioner knows happy"),
        (["--emotion", "sad=much"], "'sad=much' is no wish"),
        (["--emotion", "sad", "sad=2"], "'sad' is named twice"),
        (["--emotion", "sad=-1"], "weight of 'sad' is -1"),
        (["--num_captions", "3"], "needs --do_sample, or --num_beams 3"),
        (["--max_new_tokens", "90"], "the language model has 96 positions"),
        (["--num_candidates", "2"], "name an emotion to raise or to keep away from"),
        (["--num_candidates", "2", "--emotion", "sad"], "scored its training captions: name one with --judge"),
        (["--num_candidates", "2", "--emotion", "sad", "--judge", tiny_teacher], "names no region extractor"),
        (["--num_candidates", "2", "--emotion", "sad", "--judge", str(run)], "expected an emocap teacher or student"),
        (
            ["--num_candidates", "2", "--emotion", "sad", "--judge", str(tmp_path / "others")],
            "tells other emotions than",
        ),
        (
            ["--num_candidates", "2", "--num_captions", "3", "--emotion", "sad", "--judge", str(tmp_path / "words")],
            "3 captions of 2 candidates cannot be kept",
        ),
        (["--judge", tiny_teacher], "write 2 or more of each photo"),
        (["--label_map", str(tmp_path / "none.yaml"), "--emotion", "joy"], "There is no label map"),
        (["--image", str(tmp_path / "none.png")], "no photo or folder"),
        (["--image", str(photos / "c.png")], "cannot be read"),
        (["--image", str(tmp_path / "extractor")], "There is no photo in"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["caption", str(run), "--image", str(photos / "a.jpg"), *flags])
        assert stop.value.code == 2 and told in capsys.readouterr().err, flags
