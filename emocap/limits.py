"""What every number of every command may be, checked before any work starts."""

from collections.abc import Mapping, Sequence

__all__ = ["check_numbers"]

AT_LEAST = {
    "base_steps": 1,
    "batch_size": 1,
    "cnn_channels": 1,
    "early_stopping_patience": 0,
    "fc_hidden_size": 1,
    "freeze_layers": 0,
    "gradient_accumulation_steps": 1,
    "gru_hidden_size": 1,
    "gru_num_layers": 1,
    "hidden_size": 1,
    "image_size": 1,
    "images_per_label": 1,
    "labels_per_image": 1,
    "learning_rate": 0,
    "head_learning_rate": 0,
    "max_eval_samples": 1,
    "max_length": 3,
    "max_steps": -1,
    "max_train_samples": 1,
    "min_count": 1,
    "num_evaluations": 1,
    "num_folds": 2,
    "num_labels": 1,
    "num_resamples": 0,
    "num_seeds": 1,
    "num_source": 0,
    "num_target": 0,
    "num_train_epochs": 0,
    "num_workers": 1,
    "patience": 1,
    "per_device_eval_batch_size": 1,
    "per_device_train_batch_size": 1,
    "pretrain_steps": 1,
    "seed": 0,
    "sizes": 1,
    "jobs": 1,
    "top_k": 1,
    "warmup_steps": 0,
    "weight_decay": 0,
    "word_projection_size": 1,
}
"""The least that a flag may be."""

SHARES = {
    "fraction": (False, True),
    "label_smoothing": (True, False),
    "max_disagreement": (True, True),
    "min_confidence": (True, True),
    "mix_share": (False, False),
    "threshold": (True, True),
    "train_fraction": (False, True),
}
"""Flags within 0..1, and whether each of the two ends belongs to them."""


def check_numbers(values: Mapping[str, object]) -> None:
    """Refuses a number that a flag of its name may not be, NaN among them; what is no number is not looked at.

    Raises:
        ValueError: names the flag and what it may be.
    """
    for name, value in values.items():
        for own in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
            if isinstance(own, bool) or not isinstance(own, (int, float)):
                continue
            if name in AT_LEAST and not own >= AT_LEAST[name]:
                raise ValueError(f"--{name} is {own}; it must be {AT_LEAST[name]} or more.")
            if name in SHARES:
                low, high = SHARES[name]
                if not ((own >= 0 if low else own > 0) and (own <= 1 if high else own < 1)):
                    ends = f"from 0{'' if low else ' (without it)'} to 1{'' if high else ' (without it)'}"
                    raise ValueError(f"--{name} is {own}; it must lie {ends}.")
