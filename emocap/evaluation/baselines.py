"""What a model has to beat: logistic regression on words counted, and on the outputs of an encoder left as it is."""

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModel, AutoTokenizer

from emocap.data.pairs import FixedSizeColumn, label_matrix
from emocap.data.schema import NUM_REGIONS
from emocap.evaluation.calibration import fit_thresholds

__all__ = ["check_scikit_learn", "encoder_regression", "regression_baselines", "tfidf_regression"]

MAX_LENGTH = 64
BATCH = 64


def check_scikit_learn() -> None:
    """Refuses, before any work, to go on without scikit-learn.

    Raises:
        ValueError: how to install it.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise ValueError(
            'Controls and cross-validation fit logistic regressions with scikit-learn: pip install "emocap[controls]".'
        ) from None


def regression_baselines(
    train: Dataset,
    validation: Dataset | None,
    table: Dataset,
    encoder: str | None,
    label_column: str = "labels",
    photos: bool = True,
) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Both regressions on `table`: `tfidf` and, with an encoder, `encoder`.

    Returns:
        Name to probabilities float64 `(rows, L)` and thresholds `(L,)` fitted on `validation`, None without it.
    """
    tables = [table] if validation is None else [table, validation]
    found = {"tfidf": tfidf_regression(train, tables, label_column)}
    if encoder is not None:
        found["encoder"] = encoder_regression(encoder, train, tables, label_column, photos)
    if validation is None:
        return {name: (own[0], None) for name, own in found.items()}
    truth = label_matrix(validation, label_column)
    return {name: (own[0], fit_thresholds(own[1], truth)) for name, own in found.items()}


def tfidf_regression(train: Dataset, others: Sequence[Dataset], label_column: str = "labels") -> list[np.ndarray]:
    """Probabilities of TF-IDF (words and pairs of words, in two captions or more) with logistic regression, C = 1.

    Args:
        train: the rows to fit on; each row's captions count as one text.
        others: the tables to score.
        label_column: the targets; soft ones are true from 0.5.

    Returns:
        float64 `(rows, L)` for each of `others`.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    features = vectorizer.fit_transform(texts_of(train))
    return logistic_regressions(
        features, label_matrix(train, label_column), [vectorizer.transform(texts_of(table)) for table in others]
    )


def encoder_regression(
    encoder: str, train: Dataset, others: Sequence[Dataset], label_column: str = "labels", photos: bool = True
) -> list[np.ndarray]:
    """Probabilities of logistic regression, C = 1, on a frozen encoder's caption embeddings (mean over words, unit
    length, mean over captions) and, where `photos` and the table has them, mean and maximum of the region features,
    standardised on `train`.

    Args:
        encoder: folder or Hub id of a BERT, VisualBERT or emocap teacher checkpoint.
        train, others, label_column: as in `tfidf_regression`.

    Returns:
        float64 `(rows, L)` for each of `others`.
    """
    tables = [train, *others]
    features = list(caption_embeddings(encoder, tables))
    if photos and "region_features" in train.features:
        pictures = [region_statistics(table) for table in tables]
        mean, spread = pictures[0].mean(0), pictures[0].std(0) + 1e-6
        scale = np.sqrt(pictures[0].shape[1])  # as long as the unit-length embedding of the words
        features = [
            np.concatenate([words, (own - mean) / spread / scale], axis=1)
            for words, own in zip(features, pictures, strict=True)
        ]
    return logistic_regressions(features[0], label_matrix(train, label_column), features[1:])


def logistic_regressions(features, labels: np.ndarray, others: Sequence) -> list[np.ndarray]:
    """One regression a label; a label that never or always holds in training keeps that answer."""
    from sklearn.linear_model import LogisticRegression

    true = labels >= 0.5
    probabilities = [np.tile(true.mean(axis=0), (other.shape[0], 1)) for other in others]
    for label in np.flatnonzero(true.any(axis=0) & ~true.all(axis=0)):
        model = LogisticRegression(C=1.0, max_iter=2000).fit(features, true[:, label])
        for own, other in zip(probabilities, others, strict=True):
            own[:, label] = model.predict_proba(other)[:, 1]
    return probabilities


def texts_of(table: Dataset) -> list[str]:
    return [" ".join(own) for own in table["captions"][:]]


@torch.inference_mode()
def caption_embeddings(encoder: str, tables: Sequence[Dataset]) -> list[np.ndarray]:
    """Of each table float32 `(rows, hidden_size)`; 0 for rows without a caption."""
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    if AutoConfig.from_pretrained(encoder).model_type == "emocap_student":
        raise ValueError(
            f"'{encoder}' is an emocap student; --encoder takes a BERT, VisualBERT or teacher checkpoint."
        )
    model = AutoModel.from_pretrained(encoder).eval()
    model = getattr(model, "visual_bert", model)
    found = []
    for table in tables:
        captions = table["captions"][:]
        texts = [caption for own in captions for caption in own]
        rows = np.repeat(np.arange(len(table)), [len(own) for own in captions])
        sums = np.zeros((len(table), model.config.hidden_size), dtype=np.float32)
        order = np.argsort([len(text) for text in texts], kind="stable")
        for start in range(0, len(texts), BATCH):
            chosen = order[start : start + BATCH]
            inputs = tokenizer(
                [texts[index] for index in chosen],
                truncation=True,
                max_length=MAX_LENGTH,
                padding=True,
                return_tensors="pt",
            )
            states = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1)
            pooled = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
            np.add.at(sums, rows[chosen], pooled.float().numpy())
        found.append(sums / np.maximum(np.bincount(rows, minlength=len(table)), 1)[:, None])
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
