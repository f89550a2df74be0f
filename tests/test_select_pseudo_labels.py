"""Selection of pseudo-labels against a slow reference, with fresh random scores full of ties."""

import itertools

import numpy as np
import pytest

from emocap.pseudo_labels import PseudoLabels, select_pseudo_labels


def slow_selection(scores, labels_per_image, images_per_label, threshold):
    image_labels = []
    for row in scores.tolist():
        ranked = sorted(range(len(row)), key=lambda label: (-row[label], label))
        if labels_per_image is not None:
            ranked = ranked[:labels_per_image]
        image_labels.append([label for label in ranked if threshold is None or row[label] > threshold])
    label_images = []
    for label in range(scores.shape[1]):
        images = [image for image, labels in enumerate(image_labels) if label in labels]
        images.sort(key=lambda image: (-scores[image, label], image))
        label_images.append(images if images_per_label is None else images[:images_per_label])
    return image_labels, label_images


@pytest.mark.parametrize(
    ("labels_per_image", "images_per_label", "threshold"),
    list(itertools.product([None, 1, 4, 50], [None, 1, 10, 5000], [None, 0, 3, 100])),
)
def test_equals_the_slow_reference(labels_per_image, images_per_label, threshold):
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    for shape in [(60, 29), (50, 4), (1, 7), (9, 1)]:
        scores = rng.integers(-2, 6, shape).astype(rng.choice(["float16", "float32", "float64", "int32"]))
        selected = select_pseudo_labels(scores, labels_per_image, images_per_label, threshold)
        assert selected == slow_selection(scores, labels_per_image, images_per_label, threshold)


def test_a_worked_example():
    scores = np.array([[0.9, 0.6, 0.6], [0.2, 0.7, 0.1], [0.95, 0.5, 0.4]])
    selected = select_pseudo_labels(scores, labels_per_image=2, images_per_label=1)
    assert isinstance(selected, PseudoLabels)
    assert selected.image_labels == [[0, 1], [1, 0], [0, 1]]
    assert selected.label_images == [[2], [1], []]
    assert select_pseudo_labels(scores, labels_per_image=None, threshold=0.5).image_labels == [[0, 1, 2], [1], [0]]


def test_the_study_keeps_the_four_best():
    scores = np.random.default_rng().random((20, 29), dtype=np.float32)
    selected = select_pseudo_labels(scores)
    assert [len(labels) for labels in selected.image_labels] == [4] * 20
    assert sum(map(len, selected.label_images)) == 80


def test_a_score_at_the_threshold_is_not_kept_in_the_scores_own_precision():
    scores = np.array([[0.3, 0.30001], [0.5, 0.5]], dtype=np.float32)
    assert select_pseudo_labels(scores, threshold=0.3).image_labels == [[1], [0, 1]]
    assert select_pseudo_labels(scores, threshold=0.5).image_labels == [[], []]


def test_results_are_python_integers():
    selected = select_pseudo_labels(np.random.default_rng().random((5, 3)))
    assert {type(value) for part in selected for values in part for value in values} == {int}


def test_no_images():
    assert select_pseudo_labels(np.zeros((0, 3)), threshold=0.5) == ([], [[], [], []])


def test_nan_scores_are_counted():
    scores = np.random.default_rng().random((50, 6))
    scores[[7, 7, 30], [1, 2, 0]] = np.nan
    with pytest.raises(ValueError, match=r"2 of 50 rows of scores hold NaN, the first is row 7"):
        select_pseudo_labels(scores)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), ()])
def test_scores_must_have_two_dimensions(shape):
    with pytest.raises(ValueError, match=r"expected \(N, L\)"):
        select_pseudo_labels(np.zeros(shape))


@pytest.mark.parametrize("name", ["labels_per_image", "images_per_label"])
@pytest.mark.parametrize("count", [0, -1])
def test_counts_must_be_positive(name, count):
    with pytest.raises(ValueError, match=f"{name} is {count}, expected 1 or more"):
        select_pseudo_labels(np.zeros((2, 3)), **{name: count})
