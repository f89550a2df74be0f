"""What `emocap evaluate` says of a captioner, against the same done picture by picture and caption by caption."""

import html
import json
import logging
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import DatasetDict
from torch.nn import functional as F

from emocap import evaluate_captioner, train_captioner, train_student
from emocap.cards.models import model_card
from emocap.cli import main
from emocap.data.schema import NUM_REGIONS
from emocap.data.storage import load_table
from emocap.evaluation.candidates import candidate_scores
from emocap.metrics.captions import bleu, cider_d, distinct, words_of
from emocap.models import (
    EmocapCaptionerForConditionalGeneration,
    EmocapCaptionerProcessor,
    EmocapProcessor,
    EmocapTeacherForMultiLabelClassification,
)
from emocap.pseudo_labels.labelling import label_tables
from tests.conftest import EMOTIONS, SEED, emotion_fields, make_tokenizer
from tests.models.captioner import make_captioner, save_language_model
from tests.training.test_captioner_training import grounded_table


@pytest.fixture(scope="module")
def table(tmp_path_factory, tiny_table_dir, tiny_teacher) -> str:
    """The tiny table with the tiny teacher's scores."""
    folder = tmp_path_factory.mktemp("tables") / "labelled"
    label_tables(load_table(tiny_table_dir), tiny_teacher, str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def captioner(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("captioner")
    torch.manual_seed(SEED + 5)
    np.random.seed(SEED + 5)
    model, processor = make_captioner(save_language_model(folder / "lm", "llama"))
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return str(folder / "model")


@pytest.fixture(scope="module")
def judges(tmp_path_factory, tiny_body) -> dict[str, str]:
    """Teachers that did not score the table; one reads captions and regions, one captions alone, one regions."""
    folders = {}
    for seed, modalities in enumerate(("both", "text", "image")):
        folders[modalities] = str(tmp_path_factory.mktemp("judges") / modalities)
        torch.manual_seed(SEED + 10 + seed)
        model = EmocapTeacherForMultiLabelClassification.from_body(tiny_body, **emotion_fields())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.startswith("classifier"):
                    parameter.normal_(std=1.0)
        model.config.modalities = None if modalities == "both" else modalities
        model.save_pretrained(folders[modalities])
        EmocapProcessor(make_tokenizer()).save_pretrained(folders[modalities])
    return folders


class Slow:
    """A captioner and a judge, one caption at a time."""

    def __init__(self, captioner: str, judge: str, rows: list[dict]):
        self.model = EmocapCaptionerForConditionalGeneration.from_pretrained(captioner).eval()
        self.processor = EmocapCaptionerProcessor.from_pretrained(captioner)
        self.judge = EmocapTeacherForMultiLabelClassification.from_pretrained(judge).eval()
        self.judge_processor = EmocapProcessor.from_pretrained(judge)
        self.rows = rows

    def regions(self, row: dict) -> dict[str, np.ndarray]:
        count = row["num_regions"]
        return {
            "visual_embeds": np.array(row["region_features"], dtype=np.float32).reshape(1, NUM_REGIONS, -1)[:, :count],
            "region_boxes": np.array(row["region_boxes"], dtype=np.float32).reshape(1, NUM_REGIONS, 4)[:, :count],
        }

    def write(self, row: dict, wish: str | None, scale: float) -> str:
        inputs = self.processor(emotions=wish, **self.regions(row))
        ids = self.model.generate(**inputs, guidance_scale=scale, do_sample=False)
        return self.processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    @torch.inference_mode()
    def probabilities(self, row: dict, caption: str) -> np.ndarray:
        inputs = self.judge_processor.tokenizer(caption, return_tensors="pt")  # the processor refuses an empty one
        if not caption:
            inputs["attention_mask"].zero_()  # no words: what the judge reads is the picture
        if self.judge.config.modalities != "text":
            regions = torch.from_numpy(self.regions(row)["visual_embeds"])
            inputs["visual_embeds"] = regions
            inputs["visual_attention_mask"] = torch.ones(regions.shape[:2], dtype=torch.long)
        return self.judge(**inputs).logits[0].double().sigmoid().numpy()

    def nats_of(self, row: dict, ids: list[int]) -> tuple[float, int]:
        return self.nats(row, "", None, ids)

    @torch.inference_mode()
    def nats(self, row: dict, caption: str, levels: np.ndarray | None = None, ids=None) -> tuple[float, int]:
        scores = None if levels is None else levels[None]
        inputs = self.processor(emotion_scores=scores, **self.regions(row))
        words = torch.tensor(self.processor.encode_captions([caption]) if ids is None else [ids])
        ids = torch.cat([inputs.pop("input_ids"), words], dim=1)
        inputs["attention_mask"] = torch.ones_like(ids)
        logits = self.model(input_ids=ids, **inputs).logits[0, -words.shape[1] - 1 : -1]
        return F.cross_entropy(logits, words[0], reduction="sum").item(), words.shape[1]


NUMBER, WISHES, SCALES = 5, ["sad", "curious", "angry"], (1.0, 2.5)


@pytest.mark.parametrize("kind", ["both", "text"])
def test_figures_are_those_of_a_slow_loop(table, captioner, judges, kind, tmp_path):
    out = tmp_path / "new" / "metrics.json"
    result = evaluate_captioner(
        captioner, table, judges[kind], guidance_scale=SCALES, wishes=WISHES, num_images=NUMBER, batch_size=4,
        num_resamples=50, seed=3, output=out,
    )  # fmt: skip
    assert json.loads(out.read_text()) == dict(result) and result.folder == captioner
    test = load_table(table)["test"]
    able = [row for row in range(len(test)) if test[row]["num_regions"] and test[row]["captions"]]
    assert len(able) < len(test)
    rows = [test[int(row)] for row in np.random.default_rng(3).permutation(able)[:NUMBER]]
    slow = Slow(captioner, judges[kind], rows)
    drawn = np.random.default_rng([3, 1]).integers(len(WISHES), size=NUMBER)
    labels = [EMOTIONS.index(name) for name in WISHES]
    unwished = [slow.write(row, None, 1.0) for row in rows]
    plain = np.array([slow.probabilities(row, own) for row, own in zip(rows, unwished, strict=True)])
    expected = {}

    def steering(way, judged, with_lift=True):
        """From what is judged of each picture and wish, a list of probabilities `(L,)` each."""
        for w, (name, label) in enumerate(zip(WISHES, labels, strict=True)):
            ranks = [[1 + sum(p > own[label] for p in own) for own in judged(n, w)] for n in range(NUMBER)]
            probability = [np.mean([own[label] for own in judged(n, w)]) for n in range(NUMBER)]
            for k in (1, 3):
                expected[f"{way}/alignment@{k}/{name}"] = np.mean([np.mean(np.array(own) <= k) for own in ranks])
            expected[f"{way}/probability/{name}"] = np.mean(probability)
            if with_lift:
                expected[f"{way}/lift/{name}"] = np.mean(probability - plain[:, label])
        for key in ("alignment@1", "alignment@3", "probability", *["lift"] * with_lift):
            expected[f"{way}/{key}"] = np.mean([expected[f"{way}/{key}/{name}"] for name in WISHES])

    steering("no_wish", lambda n, w: [plain[n]], with_lift=False)
    single = {"no_wish": unwished}
    for scale in SCALES:
        way = f"guidance_{scale:g}"
        captions = [[slow.write(row, wish, scale) for wish in WISHES] for row in rows]
        judged = [[slow.probabilities(row, own) for own in told] for row, told in zip(rows, captions, strict=True)]
        steering(way, lambda n, w, judged=judged: [judged[n][w]])
        steering(
            f"{way}/shuffled_wishes",
            lambda n, w, judged=judged: [judged[n][other] for other in range(len(WISHES)) if other != w],
        )
        if kind == "both":
            apart = [[slow.probabilities(rows[n], own) for own in captions[n - 1]] for n in range(NUMBER)]
            steering(f"{way}/shuffled_images", lambda n, w, apart=apart: [apart[n][w]])
        single[way] = [captions[n][drawn[n]] for n in range(NUMBER)]
    assert len({text for own in single.values() for text in own}) > NUMBER, "wishes and pictures change captions"
    assert single["guidance_1"] != single["guidance_2.5"]
    check_sentences(json.loads(out.with_name("metrics_details.json").read_text()), slow, rows, unwished, plain, labels)
    own_scores = [[slow.probabilities(row, caption) for caption in row["captions"]] for row in rows]
    best = [[int(np.argmax(np.array(row["caption_scores"])[:, label])) for label in labels] for row in rows]
    steering("best_caption", lambda n, w: [own_scores[n][best[n][w]]])
    steering("references", lambda n, w: own_scores[n], with_lift=False)
    references = [row["captions"] for row in rows]
    for way, captions in single.items():
        for name, told in ((way, captions), (f"{way}/shuffled_images", [captions[n - 1] for n in range(NUMBER)])):
            expected[f"{name}/cider_d"] = cider_d(told, references).mean()
            expected[f"{name}/bleu_4"] = bleu(told, references)
    several = [own for own in references if len(own) > 1]
    expected["references/cider_d"] = cider_d([own[0] for own in several], [own[1:] for own in several]).mean()
    single["references"] = [own[0] for own in references]
    known = {tuple(words_of(text)) for own in load_table(table)["train"]["captions"] for text in own}
    for way, captions in single.items():
        found = [[slow.nats(row, caption)[0] for row in rows] for caption in captions]
        expected[f"{way}/retrieval@1"] = np.mean([int(np.argmin(own)) == n for n, own in enumerate(found)])
        expected[f"{way}/distinct_2"] = distinct(captions, 2)
        expected[f"{way}/novel"] = np.mean([tuple(words_of(own)) not in known for own in captions])
        expected[f"{way}/unique"] = len(set(map(tuple, map(words_of, captions)))) / NUMBER
        expected[f"{way}/length"] = np.mean([len(words_of(own)) for own in captions])
    costs = {"nats": [], "nats_with_all_emotions": [], "nats_with_shuffled_emotions": [],
             "nats_with_shuffled_images": []}  # fmt: skip
    for n, row in enumerate(rows):
        for caption, scores in zip(row["captions"], row["caption_scores"], strict=True):
            costs["nats"].append(slow.nats(row, caption))
            costs["nats_with_all_emotions"].append(slow.nats(row, caption, np.array(scores)))
            other = np.array(rows[n - 1]["caption_scores"][0])
            costs["nats_with_shuffled_emotions"].append(slow.nats(row, caption, other))
            costs["nats_with_shuffled_images"].append(slow.nats(rows[n - 1], caption))
    for key, own in costs.items():
        total, tokens = np.sum(own, axis=0)
        expected[f"references/{key}"] = total / tokens
    expected["references/perplexity"] = math.exp(expected["references/nats"])
    for key, value in expected.items():
        if value == value:
            assert result[key] == pytest.approx(value, abs=2e-4, rel=2e-4), key
    told = {key for key in result if not key.endswith(("_low", "_high"))}
    unchecked = {key for key in told if "/" in key} - expected.keys()
    assert {key.rpartition("/")[2] for key in unchecked} <= {"distinct_1", "bleu_4"}
    assert ("guidance_1/shuffled_images/lift" in told) == (kind == "both")
    for key in ("guidance_1/lift", "guidance_2.5/alignment@3/sad", "no_wish/cider_d", "references/retrieval@1"):
        assert result[f"{key}_low"] <= result[key] <= result[f"{key}_high"]
    assert result["guidance_1/lift_low"] < result["guidance_1/lift_high"]
    assert result["num_candidates"] == 1 and "ranker" not in result
    counts = ("num_examples", "num_retrieved", "split", "judge", "wishes", "guidance_scales")
    assert [result[key] for key in counts] == [5, 5, "test", judges[kind], "sad, curious, angry", "1, 2.5"]


def check_sentences(details, slow, rows, unwished, plain, labels) -> None:
    """The file beside the figures: every sentence, and what the judge says of every wish."""
    assert details["wishes"] == WISHES and details["image_id"] == [row["image_id"] for row in rows]
    told = details["sentences"]
    assert set(told) == {"guidance_1", "guidance_2.5", "no_wish", "references"}
    assert told["no_wish"]["captions"] == [[text] for text in unwished]
    assert np.allclose(told["no_wish"]["probabilities"], plain[:, labels], atol=2e-4)
    assert told["references"]["captions"] == [[row["captions"][0]] for row in rows]
    for n, row in enumerate(rows):
        first = slow.probabilities(row, row["captions"][0])[labels]
        assert np.allclose(told["references"]["probabilities"][n], first, atol=2e-4)
        for w, (wish, label) in enumerate(zip(WISHES, labels, strict=True)):
            caption = told["guidance_2.5"]["captions"][n][w]
            assert caption == slow.write(row, wish, 2.5)
            probability = slow.probabilities(row, caption)[label]
            assert told["guidance_2.5"]["probabilities"][n][w] == pytest.approx(probability, abs=2e-4)


def test_intervals_are_those_of_the_bootstrap_s_definition(rng):
    from emocap.evaluation.captioner import average
    from emocap.metrics import Bootstrap

    values, gaps = rng.normal(size=12), rng.normal(size=12)
    gaps[[2, 7]] = np.nan
    own = average({"a": values, "b": gaps}, Bootstrap(200, seed=4))
    draws = np.random.default_rng(4)
    picked = [draws.integers(12, size=12) for _ in range(200)]
    for key, column in (("a", values), ("b", gaps)):
        assert own[key] == pytest.approx(np.nanmean(column))
        slow = np.quantile([np.nanmean(column[rows]) for rows in picked], [0.025, 0.975])
        assert [own[f"{key}_low"], own[f"{key}_high"]] == pytest.approx(slow)
    assert average({"a": values}, Bootstrap(0)) == {"a": pytest.approx(values.mean())}


def test_the_best_candidates_are_those_of_a_slow_loop(table, captioner, judges, tiny_teacher, capsys):
    """Chosen by a teacher that a record names, measured by another."""
    options = {"guidance_scale": [1.0, 0.0], "wishes": WISHES, "num_images": 3, "num_resamples": 0, "seed": 3}
    found = evaluate_captioner(captioner, table, judges["both"], num_candidates=4, batch_size=8, **options)
    assert found["ranker"] == tiny_teacher and found["num_candidates"] == 4
    ways = ("guidance_1", "guidance_0")
    test = load_table(table)["test"]
    able = [row for row in range(len(test)) if test[row]["num_regions"] and test[row]["captions"]]
    rows = [test[int(row)] for row in np.random.default_rng(3).permutation(able)[:3]]
    slow, judge = Slow(captioner, tiny_teacher, rows), Slow(captioner, judges["both"], rows)
    for way, scale in zip(ways, (1.0, 0.0), strict=True):
        torch.manual_seed(3)
        raised = []
        pairs = [(n, wish) for n in range(3) for wish in WISHES]
        for step in range(0, 9, 2):  # two pictures a step, whose words are drawn together
            own = pairs[step : step + 2]
            drawn = draw(slow, [rows[n] for n, _ in own], [wish for _, wish in own], scale, 4)
            for (n, wish), captions in zip(own, drawn, strict=True):
                nats = np.array([cost / tokens for cost, tokens in (slow.nats_of(rows[n], ids) for ids in captions)])
                texts = [slow.processor.decode(ids, skip_special_tokens=True).strip() for ids in captions]
                label = EMOTIONS.index(wish)
                wished = np.log([slow.probabilities(rows[n], text)[label] for text in texts])
                scores = [(v - v.mean()) / v.std() if v.std() > 1e-9 else 0 * v for v in (wished, -nats)]
                best = texts[int(np.argmax(scores[0] + scores[1]))]
                raised.append(judge.probabilities(rows[n], best)[label])
        assert found[f"{way}/best_of_4/probability"] == pytest.approx(np.mean(raised), abs=2e-4), way
    assert found["guidance_1/best_of_4/probability"] != found["guidance_1/probability"]
    greedy = evaluate_captioner(captioner, table, judges["both"], **options)
    assert greedy["guidance_1/probability"] == pytest.approx(found["guidance_1/probability"], abs=1e-6)
    job = ["evaluate", captioner, "--dataset", table, "--num_images", "2", "--num_resamples", "0",
           "--num_candidates", "2"]  # fmt: skip
    main([*job, "--judge", judges["text"], "--ranker", judges["both"]])
    printed = capsys.readouterr().out
    assert "\nguidance_2/best_of_2 " in printed and f"candidates chosen by '{judges['both']}'" in printed
    assert "chooses among the candidates as well" in refused(
        capsys, *job, "--judge", judges["text"], "--ranker", judges["both"], judges["text"]
    )
    assert "reads pictures alone" in refused(capsys, *job, "--judge", judges["text"], "--ranker", judges["image"])
    assert "give --num_candidates, 2 or more" in refused(
        capsys, *job[:-2], "--judge", judges["text"], "--ranker", judges["both"]
    )
    with pytest.raises(ValueError, match="scored its training captions: name one with --ranker"):
        evaluate_captioner(captioner, load_table(table), judges["text"], num_candidates=2)


def draw(slow, rows, wishes, scale: float, number: int) -> list[list[list[int]]]:
    """Token ids of captions that are drawn together, up to their ends."""
    regions = [slow.regions(row) for row in rows]
    most = max(row["num_regions"] for row in rows)
    laid = {name: np.zeros((len(rows), most, own.shape[2]), np.float32) for name, own in regions[0].items()}
    mask = np.zeros((len(rows), most), np.int64)
    for place, own in enumerate(regions):
        for name in laid:
            laid[name][place, : own[name].shape[1]] = own[name][0]
        mask[place, : own["visual_embeds"].shape[1]] = 1
    inputs = slow.processor(emotions=wishes, visual_attention_mask=mask, **laid)
    ids = slow.model.generate(**inputs, guidance_scale=scale, do_sample=True, num_return_sequences=number)
    end, found = slow.processor.end_token_id, []
    for own in ids[:, inputs["input_ids"].shape[1] :].tolist():
        found.append(own[: own.index(end) + 1] if end in own else own)
    return [found[first : first + number] for first in range(0, len(found), number)]


def test_the_scores_of_candidates(rng):
    nats = np.array([[2.0, 1.0, 3.0], [1.0, 1.0, 1.0]])
    probabilities = rng.uniform(0.01, 0.99, (2, 3, 4))
    weights = np.array([[1.0, 0, -0.5, 0], [0, 2.0, 0, 0]])
    told = (np.log(probabilities[0, :, 0]) + 0.5 * np.log(1 - probabilities[0, :, 2])) / 1.5
    first = (told - told.mean()) / told.std() + np.array([0, 1, -1]) / np.std([0, 1, -1])
    second = np.log(probabilities[1, :, 1])
    second = (second - second.mean()) / second.std()  # the captioner likes all alike
    np.testing.assert_allclose(candidate_scores(nats, probabilities, weights), [first, second])
    assert candidate_scores(nats, probabilities, 0 * weights)[1].tolist() == [0, 0, 0]


def test_the_command_prints_a_line_a_way(table, captioner, judges, tmp_path, capsys):
    main(["evaluate", captioner, "--dataset", table, "--judge", judges["text"], judges["both"], "--num_images", "4",
          "--guidance_scale", "2", "--num_resamples", "20", "--output", str(tmp_path / "m.json")])  # fmt: skip
    metrics = json.loads((tmp_path / "m.json").read_text())
    lines = capsys.readouterr().out.splitlines()
    assert metrics["judge"] == f"{judges['text']}, {judges['both']}" and metrics["wishes"] == ", ".join(EMOTIONS)
    assert not any(key.startswith("guidance_1") for key in metrics)
    for way in ("guidance_2", "guidance_2/shuffled_wishes", "no_wish", "best_caption", "references"):
        cells = next(line.split() for line in lines if line.split()[:1] == [way])
        assert cells[1] == f"{metrics[f'{way}/alignment@1']:.3f}" and len(cells) == 12
    for emotion in EMOTIONS:
        line = next(line for line in lines if line.split()[:1] == [emotion])
        assert f"{metrics[f'guidance_2/lift/{emotion}']:+.3f} (" in line
    assert metrics["no_wish/alignment@3"] == pytest.approx(3 / 5)  # over all emotions
    assert any(f"perplexity {metrics['references/perplexity']:.1f}" in line for line in lines)


def test_the_labelling_teacher_is_no_judge_under_whatever_name(table, captioner, judges, tiny_teacher, tmp_path):
    copy = shutil.copytree(tiny_teacher, tmp_path / "another_name")
    with pytest.raises(ValueError, match="another_name' is the teacher that scored the captions"):
        evaluate_captioner(captioner, table, copy)
    with pytest.raises(ValueError, match="is the teacher that scored the captions"):
        evaluate_captioner(captioner, table, [judges["text"], tiny_teacher])
    # the table that the captioner learned from counts too
    taught = shutil.copytree(captioner, tmp_path / "taught")
    (Path(taught) / "run_arguments.json").write_text(json.dumps({"dataset": table}))
    with pytest.raises(ValueError, match="is the teacher that scored the captions"):
        evaluate_captioner(taught, load_table(table), copy)


def test_a_table_without_a_record_is_measured_with_a_warning(table, captioner, judges, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("emocap"), "propagate", True)
    options = {"num_images": 2, "wishes": ["sad"], "guidance_scale": [1.0], "num_resamples": 0}
    result = evaluate_captioner(captioner, load_table(table), judges["text"], **options)
    assert "the judge may be that very teacher" in caplog.text
    assert "guidance_1/lift" in result and "guidance_1/lift_low" not in result
    assert not any("shuffled_wishes" in key for key in result)  # there is no other


def test_a_card_shows_what_was_measured_beside_its_controls(table, captioner, judges, tmp_path):
    run = Path(shutil.copytree(captioner, tmp_path / "run"))
    facts = {"kind": "captioner", "dataset": table, "output_dir": str(run), "model_name_or_path": "gpt2"}
    (run / "run_arguments.json").write_text(json.dumps(facts))
    losses = {"split": "test", "num_examples": 3, "num_captions": 7, "truncated_captions": 0.0, "loss": 1.23456,
              "loss_without_wish": 2.0, "loss_with_all_emotions": 1.0}  # fmt: skip
    (run / "metrics.json").write_text(json.dumps(losses))
    before = model_card(run, "me/captioner").text
    assert "| wishes as in training | 1.235 |" in before and "CIDEr" not in before
    found = evaluate_captioner(
        run, table, judges["both"], num_candidates=2, num_images=3, num_resamples=10, output=run / "metrics.json"
    )
    text = model_card(run, "me/captioner").text
    rows = {cells[1].strip(): cells[2:] for line in text.splitlines() if len(cells := line.split("|")) > 8}
    for way, told in (
        ("guidance_2/best_of_2", "guidance 2, best of 2"),
        ("guidance_1/shuffled_wishes", "guidance 1, judged for other wishes"),
        ("no_wish/shuffled_images", "without a wish, beside another picture"),
        ("references", "the picture's own captions"),
    ):
        for place, key in enumerate(("alignment@1", "alignment@3", "probability", "lift", "cider_d")):
            shown = f"{found[f'{way}/{key}']:.3f}" if f"{way}/{key}" in found else "–"
            assert rows[html.unescape(told)][place].split()[0] == shown, (way, key)
    assert "`both` looked for the wish" in text and "`teacher` chose among candidates" in text
    assert f"cost {found['references/nats']:.3f} nats a token without a wish" in text and "{{" not in text
    assert str(tmp_path) not in text


def refused(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code
    return f"{stop.value.code} {capsys.readouterr().err}"


def test_what_does_not_fit_is_refused(table, captioner, judges, tiny_teacher, tiny_table_dir, capsys, tmp_path):
    job = ["evaluate", captioner, "--dataset", table]
    judged = [*job, "--judge", judges["text"]]
    assert "is a captioner; name the model that looks for its wishes with --judge" in refused(capsys, *job)
    assert "--controls goes with a teacher or student" in refused(capsys, *judged, "--controls")
    assert "--judge goes with a captioner" in refused(
        capsys, "evaluate", tiny_teacher, "--dataset", table, "--judge", judges["text"]
    )
    assert "reads pictures alone" in refused(capsys, *job, "--judge", judges["image"])
    assert "expected an emocap teacher or student" in refused(capsys, *job, "--judge", captioner)
    assert "There is no emotion 'gloomy' to wish for" in refused(capsys, *judged, "--wishes", "gloomy")
    assert "1 pictures of the test split" in refused(capsys, *judged, "--num_images", "1")
    assert "--guidance_scale" in refused(capsys, *judged, "--guidance_scale", "nan")
    assert "no split 'dev'" in refused(capsys, *judged, "--split", "dev")
    assert "no column 'caption_scores'" in refused(
        capsys, "evaluate", captioner, "--dataset", tiny_table_dir, "--judge", judges["text"]
    )
    with pytest.raises(ValueError, match="expected an emocap captioner"):
        evaluate_captioner(tiny_teacher, table, judges["text"])
    blind = DatasetDict({"test": load_table(table)["test"].filter(lambda row: row["num_regions"] == 0)})
    with pytest.raises(ValueError, match="0 pictures of the test split with regions and captions are too few"):
        evaluate_captioner(captioner, blind, judges["text"])


def test_a_captioner_that_follows_wishes_and_photos_shows_it(tiny_bert, tmp_path, rng):
    sizes = {"train": 512, "validation": 50, "test": 40}
    tables = DatasetDict({name: grounded_table(number, rng) for name, number in sizes.items()})
    start = save_language_model(tmp_path / "lm", "llama", initializer_range=0.05)
    quick = {"use_cpu": True, "disable_tqdm": True, "early_stopping_patience": 0}
    captioner = train_captioner(
        tables, start, tmp_path / "captioner", random_weights=True, soft_hidden_size=16, num_train_epochs=25,
        head_learning_rate=0.003, **quick,
    )  # fmt: skip
    judge = train_student(
        tables, tmp_path / "judge", word_embeddings=tiny_bert, modalities="text", num_train_epochs=15,
        learning_rate=0.01, **quick,
    )  # fmt: skip
    found = evaluate_captioner(captioner, tables, judge, num_images=40)
    for way in ("guidance_1", "guidance_2"):
        assert found[f"{way}/alignment@1"] > 0.8 and found[f"{way}/lift_low"] > 0.3
        assert found[f"{way}/shuffled_wishes/alignment@1"] < 0.2
        assert found[f"{way}/cider_d"] > found[f"{way}/shuffled_images/cider_d"] + 0.1
    assert found["no_wish/alignment@1"] == pytest.approx(1 / 5)
    costs = ["nats_with_all_emotions", "nats", "nats_with_shuffled_emotions"]
    assert [found[f"references/{key}"] for key in costs] == sorted(found[f"references/{key}"] for key in costs)
    assert found["references/nats_with_shuffled_images"] > found["references/nats"] + 0.1
