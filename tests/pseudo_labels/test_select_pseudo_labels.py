"""Selection of pseudo-labels against a slow reference, with fresh random scores full of ties."""

import itertools

import numpy as np
import pytest

from emocap.pseudo_labels.selection import Selected, select_pseudo_labels


def slow_selection(
    scores, labels_per_image, images_per_label, threshold, label_shares=None, eligible=None, image_ids=None
):
    images, labels = range(scores.shape[0]), range(scores.shape[1])
    eligible = [True] * len(scores) if eligible is None else eligible
    ids = list(images) if image_ids is None else image_ids
    kept = {(image, label) for image in images for label in labels if eligible[image]}
    if label_shares is not None:
        for label in labels:
            share = label_shares if np.isscalar(label_shares) else label_shares[label]
            own = sorted((i for i in images if eligible[i]), key=lambda i: (-scores[i, label], ids[i]))
            kept -= {(image, label) for image in own[round(share * len(own)) :]}
    image_labels = []
    for image, row in enumerate(scores.tolist()):
        ranked = sorted(labels, key=lambda label: (-row[label], label))
        ranked = [
            label for label in ranked if (image, label) in kept and (threshold is None or row[label] > threshold)
        ]
        image_labels.append(ranked[:labels_per_image])
    label_images = []
    for label in labels:
        own = [image for image in images if label in image_labels[image]]
        own.sort(key=lambda image: (-scores[image, label], ids[image]))
        label_images.append(own[:images_per_label])
    return image_labels, label_images


@pytest.mark.parametrize(
    ("labels_per_image", "images_per_label", "threshold"),
    list(itertools.product([None, 1, 4, 50], [None, 1, 10, 5000], [None, 0, 3, 100])),
)
def test_equals_the_slow_reference(rng, labels_per_image, images_per_label, threshold):
    for shape in [(60, 29), (50, 4), (1, 7), (9, 1)]:
        scores = rng.integers(-2, 6, shape).astype(rng.choice(["float16", "float32", "float64", "int32"]))
        selected = select_pseudo_labels(scores, labels_per_image, images_per_label, threshold)
        assert selected == slow_selection(scores, labels_per_image, images_per_label, threshold)


@pytest.mark.parametrize(
    ("labels_per_image", "images_per_label", "threshold"), list(itertools.product([None, 3], [None, 5], [None, 1]))
)
@pytest.mark.parametrize("shares", [None, "one", "each"])
@pytest.mark.parametrize("named", [False, True])
def test_shares_filters_and_ids_equal_the_slow_reference(
    rng, labels_per_image, images_per_label, threshold, shares, named
):
    for number, num_labels in [(60, 29), (41, 4), (1, 3), (9, 1)]:
        scores = rng.integers(-2, 6, (number, num_labels)).astype(rng.choice(["float32", "float64"]))
        options = {
            "label_shares": {None: None, "one": rng.random(), "each": rng.choice([0, 0.3, 0.8, 1], num_labels)}[
                shares
            ],
            "eligible": rng.random(number) < 0.7 if rng.random() < 0.5 else None,
            "image_ids": [f"{i:03d}.jpg" for i in rng.permutation(number)] if named else None,
        }
        settings = (labels_per_image, images_per_label, threshold)
        assert select_pseudo_labels(scores, *settings, **options) == slow_selection(scores, *settings, **options)


def test_with_ids_the_order_of_the_rows_does_not_matter(rng):
    scores, ids = rng.integers(0, 4, (80, 6)) / 4, np.array([f"{i}.jpg" for i in range(80)])
    order = rng.permutation(80)
    options = {"labels_per_image": 2, "images_per_label": 7, "label_shares": 0.4}
    first = select_pseudo_labels(scores, **options, image_ids=ids)
    second = select_pseudo_labels(scores[order], **options, image_ids=ids[order])
    assert [first.image_labels[row] for row in order] == second.image_labels
    assert first.label_images == [order[own].tolist() for own in second.label_images]


def test_shares_match_the_prevalence_of_the_training_set(rng):
    scores = rng.random((1000, 5)) ** np.array([1, 2, 4, 8, 50])  # a rare emotion never comes near 0.5
    prevalence = [0.67, 0.3, 0.1, 0.05, 0.0]
    selected = select_pseudo_labels(scores, labels_per_image=None, label_shares=prevalence)
    assert [len(own) for own in selected.label_images] == [670, 300, 100, 50, 0]
    balanced = select_pseudo_labels(scores, labels_per_image=None, label_shares=0.2)
    assert [len(own) for own in balanced.label_images] == [200] * 5


def test_a_worked_example():
    scores = np.array([[0.9, 0.6, 0.6], [0.2, 0.7, 0.1], [0.95, 0.5, 0.4]])
    selected = select_pseudo_labels(scores, labels_per_image=2, images_per_label=1)
    assert isinstance(selected, Selected)
    assert selected.image_labels == [[0, 1], [1, 0], [0, 1]]
    assert selected.label_images == [[2], [1], []]
    assert select_pseudo_labels(scores, labels_per_image=None, threshold=0.5).image_labels == [[0, 1, 2], [1], [0]]


def test_the_study_keeps_the_four_best(rng):
    scores = rng.random((20, 29), dtype=np.float32)
    selected = select_pseudo_labels(scores)
    assert [len(labels) for labels in selected.image_labels] == [4] * 20
    assert sum(map(len, selected.label_images)) == 80


def test_a_score_at_the_threshold_is_not_kept_in_the_scores_own_precision():
    scores = np.array([[0.3, 0.30001], [0.5, 0.5]], dtype=np.float32)
    assert select_pseudo_labels(scores, threshold=0.3).image_labels == [[1], [0, 1]]
    assert select_pseudo_labels(scores, threshold=0.5).image_labels == [[], []]


def test_results_are_python_integers(rng):
    selected = select_pseudo_labels(rng.random((5, 3)))
    assert {type(value) for part in selected for values in part for value in values} == {int}


def test_no_images():
    assert select_pseudo_labels(np.zeros((0, 3)), threshold=0.5) == ([], [[], [], []])


def test_nan_scores_are_counted(rng):
    scores = rng.random((50, 6))
    scores[[7, 7, 30], [1, 2, 0]] = np.nan
    with pytest.raises(ValueError, match=r"2 of 50 rows of scores hold NaN or infinities, the first is row 7"):
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_shares": [0.1, 0.2]}, "label_shares is .*for each of the 3 labels"),
        ({"label_shares": 1.5}, r"label_shares is 1.5; expected one number in 0..1"),
        ({"label_shares": [0.1, float("nan"), 0.2]}, "label_shares is"),
        ({"eligible": np.ones(3, dtype=bool)}, r"eligible has shape \(3,\), expected \(2,\)"),
        ({"image_ids": ["a"]}, r"image_ids has shape \(1,\), expected \(2,\)"),
    ],
)
def test_options_must_fit_the_scores(options, message):
    with pytest.raises(ValueError, match=message):
        select_pseudo_labels(np.zeros((2, 3)), **options)
