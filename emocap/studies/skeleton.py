"""What studies of many trainings share: each training is done once, under a name made of its settings; its scores are
kept; gains are paired."""

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import datasets
import numpy as np
import torch
import transformers

from emocap.arguments import StudentArguments
from emocap.data.storage import write_array, write_json, write_text
from emocap.data.truth import Truth
from emocap.metrics import Bootstrap, check_metric, intervals, resampled_metrics, t_interval
from emocap.report.tables import update_block
from emocap.studies.options import StudyArguments
from emocap.studies.runs import Part, Recipe
from emocap.terminal import progress
from emocap.threads import one_thread

__all__ = ["PairedGain", "Study", "digest", "paired_gain", "remember_plan"]


RunT = TypeVar("RunT", bound=NamedTuple)
ArgumentsT = TypeVar("ArgumentsT", bound=StudyArguments)


class Study(Generic[RunT, ArgumentsT]):
    """Tables, runs and folder of one study. A run is a tuple of names and numbers.

    A finished run is a JSON file beside its probabilities of the test rows, both named by a hash of all that the
    result depends on: it is never repeated, and further sizes, seeds or arms add to the folder.
    """

    def __init__(self, arguments: ArgumentsT):
        check_metric(arguments.metric, "--metric", has_votes=False)  # studies measure against labels alone
        self.arguments, self.output_dir = arguments, Path(arguments.output_dir)
        self.runs_dir = self.output_dir / "runs"
        self.parts: dict[str | tuple[str, ...], Part] = {}

    def stages(self) -> list[list[RunT]]:
        """The runs; those of a stage may start from those of the stages before."""
        raise NotImplementedError

    def settings(self, run: RunT) -> object:
        """Everything that the run's result depends on, as JSON values."""
        raise NotImplementedError

    def train(self, run: RunT) -> tuple[dict[str, Any], np.ndarray]:
        """Trains one network; what its file says, `metrics` among it, and its probabilities of the test rows."""
        raise NotImplementedError

    def student(self) -> StudentArguments:
        """The student that every run starts with."""
        own = ("word_embeddings", "freeze_word_embeddings", "image_size", "cnn_channels")
        flags = {name: getattr(self.arguments, name) for name in own}
        width = self.arguments.hidden_size
        return StudentArguments(**flags, gru_hidden_size=width, fc_hidden_size=width)

    def recipe(self, steps: int) -> Recipe:
        """How a run of so many steps at most trains."""
        own = ("patience", "learning_rate", "batch_size", "weight_decay", "metric")
        evaluated = max(1, -(-steps // self.arguments.num_evaluations))
        return Recipe(steps, evaluated, **{name: getattr(self.arguments, name) for name in own})

    def prepare(self) -> None:
        """What is done once, before any run."""
        self.runs_dir.mkdir(parents=True, exist_ok=True)

    def path(self, run: RunT) -> Path:
        return self.runs_dir / f"{self.key(run)}.json"

    def key(self, run: RunT) -> str:
        return digest(self.settings(run))

    def is_finished(self, run: RunT) -> bool:
        return self.path(run).is_file()

    def content(self, run: RunT) -> dict[str, Any]:
        """What a finished run's file says."""
        return json.loads(self.path(run).read_text("utf-8"))

    def resampled(self, run: RunT, truth: Truth, num_resamples: int) -> np.ndarray:
        """The study's metric on resampled test images, float64 `(num_resamples,)`: the same for every run."""
        probabilities = np.load(self.path(run).with_suffix(".npy"), allow_pickle=False)
        draws, keys = Bootstrap(num_resamples, groups=truth.groups), (self.arguments.metric,)
        return resampled_metrics(probabilities, truth.labels, bootstrap=draws, keys=keys)[keys[0]]

    def perform(self, run: RunT) -> None:
        """Trains and measures one network and writes its files, the JSON last."""
        content, probabilities = self.train(run)
        write_array(self.path(run).with_suffix(".npy"), probabilities.astype(np.float32))
        write_json(self.path(run), content)

    @one_thread()
    def perform_all(self) -> None:
        """Runs what is not yet there, in as many processes as the arguments' `jobs`."""
        quiet()
        self.prepare()
        stages = self.stages()
        todo = [[run for run in stage if not self.is_finished(run)] for stage in stages]
        jobs, total = min(self.arguments.jobs, max(map(len, todo))), sum(map(len, stages))
        with ExitStack() as stack:
            finished = total - sum(map(len, todo))
            bar = stack.enter_context(progress(desc="Study", unit="runs", total=total, initial=finished))
            work: Callable[..., Iterable] = map
            if jobs > 1:
                context, start = multiprocessing.get_context("spawn"), (type(self), self.arguments)
                work = stack.enter_context(ProcessPoolExecutor(jobs, context, start_worker, start)).map
            for stage in todo:
                for _ in work(perform if jobs > 1 else self.perform, stage):
                    bar.update()

    def write(self, files: Mapping[str, str], block: str) -> None:
        """The study's texts by name, and its block in the README where one is named."""
        for name, text in files.items():
            write_text(self.output_dir / name, text)
        if self.arguments.readme:
            update_block(Path(self.arguments.readme), self.arguments.block, block)


worker: Study


def start_worker(study: type[Study], arguments: StudyArguments) -> None:
    """Loads the tables once in each process."""
    global worker
    quiet()
    torch.set_num_threads(1)  # a process of the study's own
    worker = study(arguments)


def perform(run: NamedTuple) -> None:
    worker.perform(run)


def quiet() -> None:
    """No bar for each of hundreds of small checkpoints."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()


def digest(settings: object) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def remember_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Writes a study's plan, or refuses a folder in which another one was begun."""
    path = folder / "plan.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        write_json(path, plan)
    elif (before := json.loads(path.read_text("utf-8"))) != plan:
        differs = ", ".join(name for name in plan if before.get(name) != plan[name])
        raise ValueError(f"'{folder}' holds a study with other settings ({differs}); give a new folder.")


class PairedGain(NamedTuple):
    """A gain with its 95 % intervals: by Student's t over the seeds (None for one seed), and by bootstrap over the
    test images, the seeds' mean taken as it is."""

    mean: float
    low: float | None
    high: float | None
    low_images: float
    high_images: float


def paired_gain(differences: np.ndarray, images: np.ndarray) -> PairedGain:
    """Of differences seed by seed, and of their mean on the same resamples of the test images."""
    return PairedGain(*t_interval(differences), *intervals({"gain": images}).values())
