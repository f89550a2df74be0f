"""`Trainer` as every run uses it."""

import json
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

from emocap.terminal import Terminal, progress
from emocap.training.frozen import PairsWithStates, PooledPairs, frozen_layers, only_head_trains, skipped_layers
from emocap.training.sampling import PairSampler
from emocap.training.weight_decay import parameter_groups

__all__ = ["EmocapTrainer", "checkpoint_to_resume", "frozen_outputs"]

logger = logging.get_logger(__name__)


class EmocapTrainer(Trainer):
    """`Trainer` with a learning rate of its own for new layers, weight decay of weights alone (`Trainer` knows no
    norms but LayerNorm), and epochs that a `PairSampler` draws.

    Args:
        fresh: names of the parameters that train at `head_learning_rate`.
        sampler: draws the training pairs; None: `Trainer`'s own random order.
    """

    optimizer: torch.optim.Optimizer | None

    def __init__(self, *args, fresh: Collection[str] = (), sampler: PairSampler | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.fresh, self.sampler = fresh, sampler
        if sampler is not None:
            self.add_callback(EpochOfSampler(sampler))
        if Terminal.current is not None:  # a command has its own look
            for callback in (ProgressCallback, PrinterCallback):
                self.remove_callback(callback)
            self.add_callback(TrainingProgress)

    def _get_train_sampler(self, train_dataset: torch.utils.data.Dataset | None = None):
        return super()._get_train_sampler(train_dataset) if self.sampler is None else self.sampler

    def _get_eval_sampler(self, eval_dataset: torch.utils.data.Dataset) -> SequentialSampler | None:
        """Rows in their own order, for which metrics are computed: `Trainer` would sort these by length too."""
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        model = self.model if model is None else model
        if self.optimizer is None:
            rate, head_rate = self.args.learning_rate, self.args.head_learning_rate
            rates = (rate, rate if head_rate is None else head_rate)
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            groups = parameter_groups(model, self.args.weight_decay, rates, self.fresh)
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer


class EpochOfSampler(TrainerCallback):
    """Tells the sampler which epoch begins: `accelerate` does not reach it in a distributed run that goes on from the
    middle of an epoch."""

    def __init__(self, sampler: PairSampler):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.sampler.set_epoch(int(state.epoch or 0))


class TrainingProgress(TrainerCallback):
    """One bar a training, with epoch, loss and the metric that its best checkpoint goes by; one for what is measured
    after it."""

    def __init__(self):
        self.bar: Any = None
        self.is_training = False
        self.figures: dict[str, float] = {}
        self.note, self.measured = "", 0

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.is_training = True
        self.bar = progress(desc="Training", total=state.max_steps, initial=state.global_step, unit="steps")

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if not self.is_training:
            return
        best = (args.metric_for_best_model or "loss").removeprefix("eval_")
        names = {"loss": "loss", f"eval_{best}": f"validation {best}"}
        self.figures |= {told: logs[name] for name, told in names.items() if name in (logs or {})}
        told = [f"{name} {value:.4g}" for name, value in self.figures.items()]
        self.note = ", ".join([f"epoch {state.epoch:.3g} of {state.num_train_epochs}", *told])
        self.bar.set_postfix_str(self.note)

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs) -> None:
        if self.is_training:
            self.measured += 1
            self.bar.set_postfix_str(f"{self.note}, measuring: {self.measured} of {len(eval_dataloader)}")
        else:
            self.bar = self.bar or progress(desc="Measuring", total=len(eval_dataloader), unit="batches")
            self.bar.update()

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        self.measured = 0
        if not self.is_training:
            self.close()

    def on_predict(self, args, state, control, **kwargs) -> None:
        self.close()

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self.is_training, self.bar.total = False, self.bar.n  # it may have stopped early
        self.bar.set_postfix_str(self.note)
        self.close()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None


@contextmanager
def frozen_outputs(trainer: EmocapTrainer) -> Iterator[None]:
    """Inside, training and evaluation read what frozen parts give, computed once: where the head alone learns what the
    body gives, else, where the first layers are frozen, what these give."""
    args, model, scratch = trainer.args, trainer.model, Path(trainer.args.output_dir) / ".frozen_outputs"
    is_head_alone = only_head_trains(model)
    number = 0 if is_head_alone or args.n_gpu > 1 else frozen_layers(model)
    if not (args.cache_frozen_outputs and (is_head_alone or number)):
        yield
        return
    store: Callable = PooledPairs if is_head_alone else partial(PairsWithStates, number=number)
    try:
        with skipped_layers(model, number) if number else nullcontext():
            for name in ("train_dataset", "eval_dataset"):
                pairs, autocast = getattr(trainer, name), trainer.accelerator.autocast
                setattr(trainer, name, store(model, pairs, scratch / name, args.eval_batch_size, autocast))
            yield
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def checkpoint_to_resume(args: TrainingArguments) -> str | None:
    """The checkpoint that `resume_from_checkpoint` names: a folder, or, with "true", the last one of the run."""
    resume = str(args.resume_from_checkpoint)
    if resume.lower() == "true":
        return last_checkpoint(Path(args.output_dir))
    return None if resume.lower() in ("false", "none") else resume


def last_checkpoint(output_dir: Path) -> str | None:
    """The newest checkpoint of a run that was written to its end, or None: then the run begins anew."""
    found = sorted(output_dir.glob("checkpoint-*"), key=lambda folder: -int(folder.name.rpartition("-")[2]))
    for folder in found:
        try:
            json.loads((folder / "trainer_state.json").read_text())  # the last file of a checkpoint
        except (OSError, ValueError):
            logger.warning(f"'{folder}' was not written to its end: it is left out.")
        else:
            return str(folder)
    logger.warning(f"'{output_dir}' holds no checkpoint to go on from: the run begins at its first step.")
    return None
