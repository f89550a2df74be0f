"""What every number of every command may be, checked before any work starts."""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["ABOVE_ZERO", "ANY", "AT_LEAST", "SHARES", "check_names", "check_numbers"]

AT_LEAST = {
    "adam_epsilon": 0,
    "base_steps": 1,
    "batch_size": 1,
    "cnn_channels": 1,
    "data_seed": 0,
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": 1,
    "ddp_bucket_cap_mb": 1,
    "ddp_timeout": 1,
    "early_stopping_patience": 0,
    "eval_accumulation_steps": 1,
    "eval_delay": 0,
    "fc_hidden_size": 1,
    "freeze_layers": 0,
    "gradient_accumulation_steps": 1,
    "gru_hidden_size": 1,
    "gru_num_layers": 1,
    "head_learning_rate": 0,
    "hidden_size": 1,
    "image_size": 1,
    "images_per_label": 1,
    "jobs": 1,
    "labels_per_image": 1,
    "layer_sizes": 1,
    "learning_rate": 0,
    "max_eval_samples": 1,
    "max_grad_norm": 0,
    "max_length": 3,
    "max_steps": -1,
    "max_train_samples": 1,
    "min_count": 1,
    "neftune_noise_alpha": 0,
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
    "pooled_layers": -1,
    "pretrain_steps": 1,
    "save_total_limit": 1,
    "seed": 0,
    "sizes": 1,
    "top_k": 1,
    "torch_empty_cache_steps": 1,
    "warmup_steps": 0,
    "weight_decay": 0,
    "word_projection_size": 1,
}
"""The least that a flag may be."""

ABOVE_ZERO = ("eval_steps", "logging_steps", "pos_weight", "save_steps")
"""Flags that may be any number above 0; steps below 1 are shares of all steps."""

SHARES = {
    "adam_beta1": (True, False),
    "adam_beta2": (True, False),
    "fraction": (False, True),
    "label_smoothing": (True, False),
    "label_smoothing_factor": (True, False),
    "max_disagreement": (True, True),
    "min_confidence": (True, True),
    "mix_share": (False, False),
    "threshold": (True, True),
}
"""Flags within 0..1, and whether each of the two ends belongs to them."""

ANY = {"local_rank": "launchers set it: -1 where one process runs, a rank where several do"}
"""Flags that may be any finite number, and why."""


def check_names(names: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuses an option that does not exist.

    Raises:
        TypeError: names the nearest that does.
    """
    known = list(known)
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, 1, 0)[0]
            raise TypeError(f"{where} has no option '{name}'. Did you mean '{nearest}'?")


def check_numbers(values: Mapping[str, object], **at_least: int) -> None:
    """Refuses a number that a flag of its name may not be, NaN and infinity among them; what is no number is not
    looked at.

    Args:
        values: name of the flag to its value, or to several.
        **at_least: what a command asks beyond `AT_LEAST`.

    Raises:
        ValueError: names the flag and what it may be.
    """
    least = AT_LEAST | at_least
    for name, value in values.items():
        for own in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
            if isinstance(own, bool) or not isinstance(own, (int, float)):
                continue
            if name in SHARES:
                low, high = SHARES[name]
                fits = (own >= 0 if low else own > 0) and (own <= 1 if high else own < 1)
                wanted = f"lie from 0{'' if low else ' (without it)'} to 1{'' if high else ' (without it)'}"
            elif name in ABOVE_ZERO:
                fits, wanted = own > 0, "be above 0"
            elif name in least:
                fits, wanted = own >= least[name], f"be {least[name]} or more"
            else:
                fits, wanted = True, "be a finite number"
            if not (fits and math.isfinite(own)):
                raise ValueError(f"--{name} is {own}; it must {wanted}.")
