"""The sub-commands of `emocap`. Each is a class: its docstring says what it does, its fields are its options.

`run` does it and returns the result, which `--json` prints; `show` prints that for people; `following` is the command
that comes next, None where there is none; `status`, where there is one, is the exit status. `resumed`, where the same
command does not just go on after a stop, says what it does and which flags it needs. Nothing heavy is imported until a
command runs; those that train load transformers for its options too.
"""

from typing import Any

from emocap.commands.caption import Caption
from emocap.commands.data import Coco, Oasis, Pairs, Photos, Scenes, Socratis
from emocap.commands.demo import Demo
from emocap.commands.doctor import Doctor
from emocap.commands.evaluate import Calibrate, Evaluate, Predict
from emocap.commands.label import Label, Regions
from emocap.commands.publish import Export, Publish, PublishFamily, PublishSpace, Report
from emocap.commands.studies import CrossValidate, LabelStudy, Quickstart, TransferStudy
from emocap.commands.train import Finetune, TrainCaptioner, TrainStudent, TrainTeacher

__all__ = ["COMMANDS"]

COMMANDS: dict[str, Any] = {
    "quickstart": Quickstart,
    "data pairs": Pairs,
    "data photos": Photos,
    "data socratis": Socratis,
    "data coco": Coco,
    "data oasis": Oasis,
    "data scenes": Scenes,
    "regions": Regions,
    "label": Label,
    "evaluate": Evaluate,
    "calibrate": Calibrate,
    "predict": Predict,
    "caption": Caption,
    "demo": Demo,
    "report": Report,
    "export": Export,
    "publish": Publish,
    "publish-family": PublishFamily,
    "publish-space": PublishSpace,
    "train-teacher": TrainTeacher,
    "train-student": TrainStudent,
    "finetune": Finetune,
    "train-captioner": TrainCaptioner,
    "cross-validate": CrossValidate,
    "transfer-study": TransferStudy,
    "label-study": LabelStudy,
    "doctor": Doctor,
}
"""Every command by the words after `emocap`."""
