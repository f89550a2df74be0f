"""Expected valence and its rank correlation with people's, against scipy, and the command on a table with ratings."""

import json

import numpy as np
import pytest
from datasets import DatasetDict
from scipy.stats import spearmanr

from emocap.cli import main
from emocap.evaluation.scoring import load_model, score_table
from emocap.evaluation.valence import correlations, expected_valence, read_norms, spearman
from emocap.metrics import Bootstrap

NORMS = {"happy": 8.5, "sad": 2.1, "excited": 8.1, "curious": 6.6, "angry": 2.5}


@pytest.fixture
def norms_file(tmp_path):
    path = tmp_path / "norms.csv"
    path.write_text("Index,Word,V.Mean.Sum\n" + "".join(f"1,{word},{value}\n" for word, value in NORMS.items()))
    return path


@pytest.fixture
def rated(tiny_table, tmp_path):
    """The tiny table with ratings that follow its labels, saved."""

    def rate(row):
        return {"valence_mean": float(np.dot(row["labels"], [3, -3, 2, 0, -2]) + np.sin(row["num_regions"]))}

    tables = DatasetDict({name: split.map(rate) for name, split in tiny_table.items()})
    tables.save_to_disk(str(tmp_path / "rated"))
    return tables, str(tmp_path / "rated")


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_equals_scipy(ties, rng):
    a, b = rng.normal(size=(2, 60))
    b = a + b
    if ties:
        a, b = np.round(a), np.round(b)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert np.isnan(spearman(np.ones(5), np.arange(5)))


def test_expected_valence_is_the_mean_weighted_by_probability():
    probabilities = np.array([[0.5, 0.5, 0.0], [0.2, 0.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(expected_valence(probabilities, np.array([8.0, 2.0, 5.0])), [5, 8, 5])


def test_norms_are_read_by_word_then_by_lemma(tmp_path):
    path = tmp_path / "norms.csv"
    path.write_text("Word,V.Mean.Sum\nJoy,8.21\nintrigue,6.5\nworry,3.0\nworried,3.27\n")
    assert read_norms(path, ["worried", "joy", "intrigued"]).tolist() == [3.27, 8.21, 6.5]
    with pytest.raises(ValueError, match="has no valence for sad, awe"):
        read_norms(path, ["joy", "sad", "awe"])
    path.write_text("Word,V.Mean.Sum\njoy,much\n")
    with pytest.raises(ValueError, match="line 2.*'joy' is 'much'; expected a number from 1 to 9"):
        read_norms(path, ["joy"])
    path.write_text("Word,Valence\njoy,8\n")
    with pytest.raises(ValueError, match=r"lacks the column\(s\) V.Mean.Sum"):
        read_norms(path, ["joy"])
    with pytest.raises(FileNotFoundError):
        read_norms(tmp_path / "absent.csv", ["joy"])


def test_paired_intervals_follow_the_draws():
    rng = np.random.default_rng(1)
    people = rng.normal(size=80)
    scores = {"both": people + rng.normal(size=80) / 3, "text": people + rng.normal(size=80), "image": -people}
    found = correlations(scores, people, Bootstrap(50, seed=4))
    draws = np.random.default_rng(4)
    rows = [draws.integers(80, size=80) for _ in range(50)]
    gains = [spearmanr(scores["both"][r], people[r]).statistic - spearmanr(scores["text"][r], people[r]).statistic
             for r in rows]  # fmt: skip
    low, high = np.quantile(gains, [0.025, 0.975])
    assert found["spearman/both_over_text_low"] == pytest.approx(low) and low > 0
    assert found["spearman/both_over_text_high"] == pytest.approx(high)
    assert found["spearman/image"] == pytest.approx(-1)


def test_the_command_compares_with_people(rated, norms_file, tiny_teacher, tmp_path, capsys):
    tables, folder = rated
    main(["evaluate", tiny_teacher, "--dataset", folder, "--valence_norms", str(norms_file), "--num_resamples", "20",
          "--output", str(tmp_path / "out.json")])  # fmt: skip
    found = json.loads((tmp_path / "out.json").read_text())
    table = tables["test"]
    rows = [row for row in range(len(table)) if table[row]["captions"] and table[row]["num_regions"]]
    people = np.array(table["valence_mean"][:])[rows]
    model, processor = load_model(tiny_teacher)
    for name in ("both", "text", "image"):
        scores = score_table(model, processor, table.select(rows), modalities=name)
        valence = scores @ np.array(list(NORMS.values())) / scores.sum(1)
        assert found[f"spearman/{name}"] == pytest.approx(spearmanr(valence, people).statistic, abs=1e-6)
    assert found["num_examples"] == len(rows) < len(table)
    assert "both_over_image" in capsys.readouterr().out
    main(["evaluate", tiny_teacher, "--dataset", folder, "--valence_norms", str(norms_file), "--split", "all",
          "--num_resamples", "0", "--output", str(tmp_path / "all.json")])  # fmt: skip
    assert json.loads((tmp_path / "all.json").read_text())["num_examples"] > len(table)


def test_a_table_without_ratings_is_refused(tiny_table_dir, norms_file, tiny_teacher, capsys):
    for split, message in (("test", "no column 'valence_mean'"), ("val", "no split 'val'")):
        with pytest.raises(SystemExit):
            main(["evaluate", tiny_teacher, "--dataset", tiny_table_dir, "--valence_norms", str(norms_file),
                  "--split", split])  # fmt: skip
        assert message in capsys.readouterr().err
