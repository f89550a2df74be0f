"""What a model has to beat: logistic regression on counted words, on lexica of emotion words, and on the outputs of an
encoder left as it is, at the layers that suit it best."""

import json
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModel, AutoTokenizer

from emocap.data.pairs import FixedSizeColumn, label_matrix
from emocap.data.schema import NUM_REGIONS, held_out
from emocap.evaluation.calibration import fit_thresholds
from emocap.evaluation.regression import best_regression, regression_probabilities

__all__ = [
    "caption_embeddings",
    "check_scikit_learn",
    "encoder_regression",
    "held_out_rows",
    "lexicon_regression",
    "regression_baselines",
    "tfidf_regression",
]

MAX_LENGTH = 64
BATCH = 64

WINDOWS = (1, 2, 4)
"""Numbers of neighbouring layers that are tried side by side, beside all of them."""

ENDINGS = ("", "'s", "s", "es", "d", "ed", "ing", "ly")
"""Endings that a word loses before it is given up."""


def check_scikit_learn() -> None:
    """Refuses, before any work, to go on without scikit-learn.

    Raises:
        ValueError: how to install it.
    """
    if find_spec("sklearn") is None:
        raise ValueError(
            'Controls and cross-validation fit logistic regressions with scikit-learn: pip install "emocap[controls]".'
        )


def regression_baselines(
    train: Dataset,
    validation: Dataset | None,
    table: Dataset,
    encoder: str | None,
    label_column: str = "labels",
    photos: bool = True,
    known: dict[str, np.ndarray] | None = None,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The regressions on `table`: `tfidf`, where its packages are installed `lexicon`, and with an encoder `encoder`.

    Args:
        validation: rows by which layers and penalties are chosen and thresholds fitted; None: a tenth of `train`.
        known: as in `caption_embeddings`.

    Returns:
        Name to probabilities float64 `(rows, L)` and thresholds `(L,)`.
    """
    if validation is None:
        train, validation = held_out_rows(train)
    found = {"tfidf": tfidf_regression(train, [table, validation], label_column)}
    if lexicon_is_installed():
        found["lexicon"] = lexicon_regression(train, validation, [table, validation], label_column)
    if encoder is not None:
        tables = [table, validation]
        found["encoder"] = encoder_regression(encoder, train, validation, tables, label_column, photos, known)
    truth = label_matrix(validation, label_column)
    return {name: (own, fit_thresholds(on_validation, truth)) for name, (own, on_validation) in found.items()}


def held_out_rows(train: Dataset) -> tuple[Dataset, Dataset]:
    """The training rows without a tenth of them, and that tenth, as a training run without validation rows has it.

    Raises:
        ValueError: so few rows that one of the two is empty.
    """
    chosen = held_out(train)
    if chosen.all() or not chosen.any():
        raise ValueError(
            f"Of {len(train)} training rows {chosen.sum()} fall into the tenth that layers, penalties and "
            "thresholds are chosen by; give a validation split."
        )
    return train.select(np.flatnonzero(~chosen)), train.select(np.flatnonzero(chosen))


def tfidf_regression(train: Dataset, others: Sequence[Dataset], label_column: str = "labels") -> list[np.ndarray]:
    """Probabilities of TF-IDF (words and pairs of words, in two captions or more) with logistic regression, C = 1.

    Args:
        train: the rows to fit on; each row's captions count as one text.
        others: the tables to score.
        label_column: the targets; soft ones are true from 0.5.

    Returns:
        float64 `(rows, L)` for each of `others`; a label that never or always holds in training keeps that answer.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    features = vectorizer.fit_transform(texts_of(train))
    inputs = [vectorizer.transform(texts_of(table)) for table in others]
    true = label_matrix(train, label_column) >= 0.5
    probabilities = [np.tile(true.mean(axis=0), (own.shape[0], 1)) for own in inputs]
    for label in np.flatnonzero(true.any(axis=0) & ~true.all(axis=0)):
        model = LogisticRegression(C=1.0, max_iter=2000).fit(features, true[:, label])
        for scores, own in zip(probabilities, inputs, strict=True):
            scores[:, label] = model.predict_proba(own)[:, 1]
    return probabilities


def lexicon_is_installed() -> bool:
    """Whether the packages of the extra `lexicon` are there; neither is imported."""
    return all(find_spec(package) is not None for package in ("nrclex", "vaderSentiment"))


def lexicon_regression(
    train: Dataset, validation: Dataset, others: Sequence[Dataset], label_column: str = "labels"
) -> list[np.ndarray]:
    """Probabilities of logistic regression on what lexica say of a caption's words: how many of them stand in each
    of the NRC lexicon's ten lists (Mohammad & Turney 2013), how many there are, and VADER's four scores (Hutto &
    Gilbert 2014), standardised on `train`; C chosen on `validation`.

    Returns:
        float64 `(rows, L)` for each of `others`.
    """
    tables = [train, validation, *others]
    features = standardised([lexicon_features(texts_of(table)) for table in tables])
    labels = [label_matrix(table, label_column) for table in tables[:2]]
    _, _, fitted = best_regression([features[:2]], *labels)
    return [regression_probabilities(own, fitted) for own in features[2:]]


def lexicon_features(texts: Sequence[str]) -> np.ndarray:
    """float64 `(texts, 15)`: how many words stand in each of NRC's lists, in alphabetical order, the logarithm of 1
    plus the number of words, and VADER's neg, neu, pos and compound. A word that no list has is looked up without its
    ending."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    lists = nrc_lists()
    names = sorted({name for own in lists.values() for name in own})
    vader = SentimentIntensityAnalyzer()
    features = np.zeros((len(texts), len(names) + 5))
    for row, text in enumerate(texts):
        words = re.findall(r"[a-z']+", text.lower())
        for word in words:
            stems = (word.removesuffix(ending) for ending in ENDINGS)
            for name in next((lists[stem] for stem in stems if stem in lists), ()):
                features[row, names.index(name)] += 1
        scores = vader.polarity_scores(text)
        features[row, len(names)] = np.log1p(len(words))
        features[row, len(names) + 1 :] = [scores[key] for key in ("neg", "neu", "pos", "compound")]
    return features


def nrc_lists() -> dict[str, list[str]]:
    """Word to the lists of the NRC lexicon that it stands in, from the file in the package nrclex. The package itself
    is not imported: it would load TextBlob and NLTK."""
    spec = find_spec("nrclex")
    assert spec is not None and spec.submodule_search_locations  # who asks has looked
    return json.loads(Path(spec.submodule_search_locations[0], "data", "nrc_en.json").read_text("utf-8"))


def encoder_regression(
    encoder: str,
    train: Dataset,
    validation: Dataset,
    others: Sequence[Dataset],
    label_column: str = "labels",
    photos: bool = True,
    known: dict[str, np.ndarray] | None = None,
) -> list[np.ndarray]:
    """Probabilities of logistic regression on a frozen encoder's caption embeddings and, where `photos` and the table
    has them, mean and maximum of the region features, standardised on `train`.

    An embedding is a layer's mean over words, of unit length, averaged over the captions. Which layers stand side by
    side (each alone, neighbours by two and four, all of them) and the regression's C are chosen by binary
    cross-entropy on `validation`.

    Args:
        encoder: folder or Hub id of a BERT, VisualBERT or emocap teacher checkpoint.
        train, others, label_column: as in `tfidf_regression`.
        validation: the rows to choose by.
        known: as in `caption_embeddings`.

    Returns:
        float64 `(rows, L)` for each of `others`.
    """
    tables = [train, validation, *others]
    words = caption_embeddings(encoder, tables, known)
    pictures = None
    if photos and "region_features" in train.features:
        pictures = standardised([region_statistics(table) for table in tables])  # as long as the words' own

    def features(place: int, layers: slice) -> np.ndarray:
        own = words[place][:, layers]
        own = own.reshape(len(own), -1) / np.sqrt(own.shape[1])
        return own if pictures is None else np.concatenate([own, pictures[place]], axis=1)

    sets = list(layer_sets(words[0].shape[1]))
    labels = [label_matrix(table, label_column) for table in tables[:2]]
    chosen, _, fitted = best_regression(((features(0, own), features(1, own)) for own in sets), *labels)
    return [regression_probabilities(features(place, sets[chosen]), fitted) for place in range(2, len(tables))]


def standardised(features: list[np.ndarray]) -> list[np.ndarray]:
    """Features of some tables, centred and scaled by the first table's; rows are of about unit length."""
    mean, spread = features[0].mean(0), features[0].std(0) + 1e-6
    return [(own - mean) / spread / np.sqrt(own.shape[1]) for own in features]


def layer_sets(number: int) -> Iterator[slice]:
    """Each layer, neighbours by two and four, and all of them."""
    for width in (*(own for own in WINDOWS if own < number), number):
        for first in range(number - width + 1):
            yield slice(first, first + width)


def texts_of(table: Dataset) -> list[str]:
    return [" ".join(own) for own in table["captions"][:]]


def caption_embeddings(
    encoder: str, tables: Sequence[Dataset], known: dict[str, np.ndarray] | None = None
) -> list[np.ndarray]:
    """Of each table float32 `(rows, layers + 1, hidden_size)`, the embeddings first; 0 for rows without a caption.

    Args:
        encoder: as in `encoder_regression`.
        known: the same encoder's embeddings of captions, to which those of further captions are added.
    """
    known = {} if known is None else known
    captions = [table["captions"][:] for table in tables]
    new = {own for rows in captions for row in rows for own in row} - known.keys()
    if new or not known:
        known |= embed(encoder, sorted(new, key=lambda text: (len(text), text)) or ["none"])
    nothing = np.zeros_like(next(iter(known.values())))
    return [np.stack([np.mean([known[own] for own in row], 0) if row else nothing for row in rows])
            for rows in captions]  # fmt: skip


@torch.inference_mode()
def embed(encoder: str, texts: list[str]) -> dict[str, np.ndarray]:
    """Each text's float32 `(layers + 1, hidden_size)`; those of about one length are best side by side."""
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    if AutoConfig.from_pretrained(encoder).model_type == "emocap_student":
        raise ValueError(
            f"'{encoder}' is an emocap student; --encoder takes a text encoder, VisualBERT or teacher checkpoint."
        )
    model = AutoModel.from_pretrained(encoder).eval()
    model = getattr(model, "body", model)
    found = {}
    for start in range(0, len(texts), BATCH):
        chosen = texts[start : start + BATCH]
        inputs = tokenizer(
            chosen, truncation=True, max_length=MAX_LENGTH, padding=True, padding_side="right", return_tensors="pt"
        )
        attention = inputs["attention_mask"]
        output = model(input_ids=inputs["input_ids"], attention_mask=attention, output_hidden_states=True)
        mask = attention[:, None, :, None]
        states = torch.stack(output.hidden_states, dim=1).float()
        pooled = torch.nn.functional.normalize((states * mask).sum(2) / mask.sum(2), dim=-1)
        found |= dict(zip(chosen, pooled.numpy(), strict=True))
    return found


def region_statistics(table: Dataset) -> np.ndarray:
    """Mean and maximum over each photo's regions, float32 `(rows, 2 * dim)`; 0 for rows without a photo."""
    column = FixedSizeColumn(table, "region_features")
    counts = np.asarray(table.with_format("numpy")["num_regions"][:])
    parts = []
    for start in range(0, len(table), BATCH):
        rows = np.arange(start, min(start + BATCH, len(table)))
        features = column[rows].reshape(len(rows), NUM_REGIONS, -1).astype(np.float32)
        inside = (np.arange(NUM_REGIONS) < counts[rows][:, None])[..., None]
        mean = (features * inside).sum(1) / np.maximum(counts[rows], 1)[:, None]
        largest = np.where(inside, features, -np.inf).max(1)
        parts.append(np.concatenate([mean, np.where(np.isfinite(largest), largest, 0)], axis=1))
    return np.concatenate(parts)
