"""Checkpoints that bring their code: with `trust_remote_code=True` they load where emocap is not installed."""

import shutil
from pathlib import Path
from typing import ClassVar

from transformers.dynamic_module_utils import get_relative_imports
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import cached_file, logging

__all__ = ["CodeCarryingConfig", "ShippedPipelines"]

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
        super().__post_init__(**kwargs)
        self.auto_map = dict(self.auto_classes)
        if self.pipelines:
            self.custom_pipelines = ShippedPipelines(self.pipelines)

    def save_pretrained(self, save_directory, **kwargs) -> None:
        """As everywhere in transformers, and the code beside it."""
        super().save_pretrained(save_directory, **kwargs)
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
