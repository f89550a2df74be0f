"""What the checkpoints of every class share: code that they carry, the losses, frozen parts, and how several answer as
one."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_imports
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import cached_file, logging

__all__ = [
    "LOSSES",
    "CodeCarryingConfig",
    "CommitteeConfig",
    "RegionNormalizer",
    "ShippedPipelines",
    "check_loss",
    "keep_frozen_in_eval",
    "multi_label_loss",
]

logger = logging.get_logger(__name__)

EMOTION_RECOGNITION = {
    "emotion-recognition": {
        "impl": "pipeline_emocap.EmotionRecognitionPipeline",
        "pt": ["AutoModel"],
        "type": "multimodal",
    }
}
"""The pipeline of teacher and student."""


class CodeCarryingConfig:
    """Mixin of configurations: where one is saved, the code of its checkpoint's classes is saved beside it.

    Whatever writes a checkpoint saves its configuration, so every checkpoint brings its code: the modules that the
    auto classes and pipelines name, and all that these import from their own folder.

    Attributes:
        auto_classes: `"module.Class"` of each auto class, the `auto_map` of `config.json`.
        pipelines: task to description, the `custom_pipelines` of `config.json`.
    """

    auto_classes: ClassVar[dict[str, str]] = {}
    pipelines: ClassVar[dict[str, dict]] = {}

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)  # type: ignore[misc] # a mixin: the configuration beside it has one
        self.auto_map = dict(self.auto_classes)
        if self.pipelines:
            self.custom_pipelines = ShippedPipelines(self.pipelines)

    def save_pretrained(self: PreTrainedConfig, save_directory, **kwargs) -> None:
        """As everywhere in transformers, and the code beside it."""
        super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc] # likewise
        references = [*self.auto_classes.values(), *(pipeline["impl"] for pipeline in self.pipelines.values())]
        copy_code([reference.partition(".")[0] for reference in references], Path(save_directory), self.name_or_path)


class ShippedPipelines(dict):
    """`custom_pipelines` of a checkpoint. A task that is registered, as by `import emocap`, is not looked for here:
    transformers would ask for `trust_remote_code` although the code is at hand. What is looked up is a copy:
    transformers writes classes into it, which JSON does not know."""

    def __contains__(self, task: object) -> bool:
        return super().__contains__(task) and task not in PIPELINE_REGISTRY.supported_tasks

    def __getitem__(self, task: str) -> dict:
        return dict(super().__getitem__(task))


def copy_code(modules: list[str], folder: Path, checkpoint: str) -> None:
    """Copies modules, and what they import from their own folder, into `folder`.

    They lie beside this file in an installed emocap. In a copy that transformers made of a checkpoint's code only
    those lie there that were imported so far: the others come from `checkpoint`, the folder or Hub id it was loaded
    from. One that is nowhere is named in a warning, since a checkpoint must not be lost for it.
    """
    found, waiting = set(), list(dict.fromkeys(modules))
    while waiting:
        module = waiting.pop()
        found.add(module)
        source = find_code(f"{module}.py", checkpoint)
        if source is None:
            logger.warning(f"'{folder}' lacks {module}.py: it is neither beside {__file__} nor in '{checkpoint}'.")
            continue
        waiting += set(get_relative_imports(source)) - found - set(waiting)
        target = folder / f"{module}.py"
        if source.resolve() != target.resolve():
            shutil.copyfile(source, target)


def find_code(name: str, checkpoint: str) -> Path | None:
    beside = Path(__file__).with_name(name)
    if beside.is_file() or not checkpoint:
        return beside if beside.is_file() else None
    found = cached_file(
        checkpoint,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return None if found is None else Path(found)


def keep_frozen_in_eval(module: nn.Module) -> None:
    """Puts every part whose parameters are all frozen into evaluation mode: its dropout and norms stand still."""
    for child in module.children():
        parameters = list(child.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            child.eval()
        else:
            keep_frozen_in_eval(child)


class CommitteeConfig:
    """What the configurations of one or several models come to that answer together; a single one's is its own.

    A committee's logit is the mean of its members' logits, each divided by its member's temperature, which makes its
    probability their normalised geometric mean (the logarithmic opinion pool of Genest & Zidek 1986). Its emotions
    stand in the first member's order. What a configuration says is read anew each time.

    Args:
        names: of the members, for errors.
        configs: of teachers or students.

    Raises:
        ValueError: no member, one that comes twice, or members with unlike emotions.
    """

    def __init__(self, names: Sequence[str], configs: Sequence[PreTrainedConfig]):
        if not names or len(set(names)) < len(names):
            raise ValueError(f"A committee takes one or more different models, not {list(names)}.")
        self.names, self.configs, self.orders = list(names), list(configs), []
        self.id2label, self.label2id = configs[0].id2label, configs[0].label2id
        self.num_labels = len(self.id2label)
        wanted = [self.id2label[label] for label in range(self.num_labels)]
        for name, config in zip(names, configs, strict=True):
            own = [config.id2label[label] for label in range(len(config.id2label))]
            if sorted(own) != sorted(wanted):
                lacks, more = sorted(set(wanted) - set(own)), sorted(set(own) - set(wanted))
                raise ValueError(
                    f"'{name}' and '{names[0]}' cannot answer together, their emotions differ: only in '{names[0]}' "
                    f"{lacks[:5]}, only in '{name}' {more[:5]}."
                )
            self.orders.append(list(range(len(own))) if own == wanted else [own.index(label) for label in wanted])

    @property
    def modalities(self) -> str | None:
        """What all members read, or "both" where they read unlike things."""
        told = {config.modalities for config in self.configs}
        return told.pop() if len(told) == 1 else "both"

    @property
    def thresholds(self) -> list[float] | None:
        """The mean of the members' thresholds, or None where one has none. Each was fitted on its member's calibrated
        probabilities of the same emotion, between which the committee's lies; none on the committee's own."""
        return self.mean_of("thresholds")

    @property
    def label_prevalence(self) -> list[float] | None:
        """The mean of the members' shares of training rows, or None where one has none."""
        return self.mean_of("label_prevalence")

    def mean_of(self, name: str) -> list[float] | None:
        values = [getattr(config, name) for config in self.configs]
        if any(own is None for own in values):
            return None
        for own in values:
            if len(own) != self.num_labels:
                raise ValueError(f"The configuration has {len(own)} {name} for {self.num_labels} labels.")
        ordered = [[own[place] for place in order] for own, order in zip(values, self.orders, strict=True)]
        return [sum(own) / len(own) for own in zip(*ordered, strict=True)]

    def scaled(self, logits: Sequence[Any]) -> list[Any]:
        """Each member's logits, arrays or tensors `(..., L)` in its own order, at its temperature and in the first's
        order."""
        return [
            own[..., order] / (config.temperature or 1.0)
            for own, order, config in zip(logits, self.orders, self.configs, strict=True)
        ]

    @staticmethod
    def mean(scaled: Sequence[Any]) -> Any:
        """The committee's logits `(..., L)` from what `scaled` gives."""
        return sum(scaled[1:], scaled[0]) / len(scaled)


class RegionNormalizer(nn.Module):
    """Shifts and scales region features: `(x - shift) * scale`. The identity until `fit` is called."""

    def __init__(self, dim: int):
        super().__init__()
        self.shift = nn.Buffer(torch.zeros(dim))
        self.scale = nn.Buffer(torch.ones(dim))

    @torch.no_grad()
    def fit(self, features: torch.Tensor, target_std: float = 0.1) -> None:
        """Sets shift and scale so that `features` (n, dim) come out with mean 0 and standard deviation `target_std`.

        A fresh visual projection learns from features of any detector, whatever their range. Columns that do not vary
        come out as 0.
        """
        mean, std = features.double().mean(0), features.double().std(0)
        self.shift.copy_(mean)
        self.scale.copy_(torch.where(std > 1e-6, target_std / std.clamp_min(1e-6), 0.0))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return (features.to(self.scale.dtype) - self.shift) * self.scale


LOSSES = ("bce", "asl", "db")

ASL_FOCUSING, ASL_MARGIN = 4, 0.05
"""gamma- and m of Ridnik et al. 2021, section 3.1; their gamma+ is 0."""

DB_ALPHA, DB_BETA, DB_MU = 0.1, 10.0, 0.2
"""Smoothing of the re-balancing weights (Wu et al. 2020, equation 5), as its authors set it for COCO."""

DB_LAMBDA, DB_KAPPA = 2.0, 0.05
"""Scale and bias of the negative-tolerant regularisation (Wu et al. 2020, equation 9), as set for COCO. The authors'
code, to which the numbers belong, divides the bias by the scale, unlike the paper."""

DB_FOCUSING, DB_BALANCE = 2, 2.0
"""gamma of the focal term (Lin et al. 2017, equation 4) and the factor before it, as Wu et al. set them for COCO."""

PRIOR_BOUND = 1e-4
"""Priors stay this far from 0 and 1: an emotion without positives has a finite weight."""


def multi_label_loss(
    logits: torch.Tensor, labels: torch.Tensor, config, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean loss over batch and labels, in float32 or wider.

    `config.loss` is `"bce"`: binary cross-entropy; `"asl"`: asymmetric loss (Ridnik et al. 2021), which counts easy
    negatives less; `"db"`: distribution-balanced loss (Wu et al. 2020) with its focal term, which counts frequent
    emotions and easy entries less. Its weights even out what class-balanced sampling does to images of several
    emotions, so it goes with that sampling; the prior stays that of the table. Its probabilities are no longer
    calibrated to the prevalence: a temperature and thresholds fitted on validation rows mend their scale only. Soft
    labels weigh the positive and the negative term of each. `config.label_smoothing` moves the labels toward the prior
    first: `(1 - s) * labels + s * label_prevalence`.

    Args:
        logits: float `(..., L)`.
        labels: float `(..., L)`, multi-hot or shares in 0..1, broadcast over `logits`.
        config: holds `loss`, `pos_weight`, `label_smoothing` and `label_prevalence`.
        weight: float, broadcast over `logits`: how much each entry counts in the mean.

    Returns:
        A scalar.

    Raises:
        ValueError: `db`, `pos_weight` or `label_smoothing` without the prior of every label.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labels = labels.to(logits.dtype).expand_as(logits)
    prior = bounded_prior(logits, config)
    if config.label_smoothing:
        labels = torch.lerp(labels, prior.expand_as(labels), config.label_smoothing)
    if config.loss == "asl":
        entries = asymmetric_loss(logits, labels)
    elif config.loss == "db":
        entries = distribution_balanced_loss(logits, labels, prior)
    else:
        pos_weight = None if config.pos_weight is None else ((1 - prior) / prior).clamp_max(config.pos_weight)
        return F.binary_cross_entropy_with_logits(logits, labels, weight, pos_weight=pos_weight)
    return (entries if weight is None else entries * weight).mean()


def asymmetric_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """ASL of every entry (Ridnik et al. 2021, equation 7): negatives below the margin do not count at all."""
    shifted = (logits.sigmoid() - ASL_MARGIN).clamp_min(0)
    negative = -torch.log1p(-shifted) * shifted**ASL_FOCUSING
    return labels * F.softplus(-logits) + (1 - labels) * negative


def distribution_balanced_loss(logits: torch.Tensor, labels: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """DB-focal loss of every entry (Wu et al. 2020, equation 10): re-balanced weights, negative-tolerant logits, and a
    focal term of the probability that these logits give to the entry's truth."""
    drawn = (labels / prior).sum(-1, keepdim=True).clamp_min(1e-6)  # how often class-balanced drawing meets the row
    weights = DB_ALPHA + torch.sigmoid(DB_BETA * (1 / (prior * drawn) - DB_MU))
    biased = logits + DB_KAPPA / DB_LAMBDA * torch.logit(prior)
    scaled = DB_LAMBDA * biased
    positive = torch.sigmoid(-biased) ** DB_FOCUSING * F.softplus(-biased)
    negative = torch.sigmoid(scaled) ** DB_FOCUSING * F.softplus(scaled) / DB_LAMBDA
    return DB_BALANCE * weights * (labels * positive + (1 - labels) * negative)


def bounded_prior(logits: torch.Tensor, config) -> Any:
    """The configuration's prior, float `(L,)`, away from 0 and 1, or None where the loss needs none."""
    if not (config.loss == "db" or config.pos_weight is not None or config.label_smoothing):
        return None
    if config.label_prevalence is None or len(config.label_prevalence) != logits.shape[-1]:
        found = "absent" if config.label_prevalence is None else f"{len(config.label_prevalence)} numbers"
        raise ValueError(
            f"label_prevalence is {found}; db, pos_weight and label_smoothing need the share of the "
            f"training rows of each of the {logits.shape[-1]} labels in the configuration."
        )
    return logits.new_tensor(config.label_prevalence).clamp(PRIOR_BOUND, 1 - PRIOR_BOUND)


def check_loss(loss: str, pos_weight: float | None, label_smoothing: float) -> None:
    """Refuses loss settings that do not go together.

    Raises:
        ValueError: an unknown loss, `pos_weight` beside another loss than `bce`, or a number out of range.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss is '{loss}'; it must be one of {', '.join(LOSSES)}.")
    if pos_weight is not None and (loss != "bce" or pos_weight <= 0):
        raise ValueError(
            f"pos_weight is {pos_weight} with loss '{loss}'; it must be positive, and goes with 'bce' alone: asl and "
            "db weigh positives and negatives by themselves."
        )
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"Label smoothing is {label_smoothing}; it must be at least 0 and below 1.")
