"""Commands that train one model. Their options are transformers' too, which are loaded when they are asked for."""

import os
from typing import TYPE_CHECKING, Any

from emocap.options import OptionsParser
from emocap.terminal import command_line

if TYPE_CHECKING:
    from emocap.records import Result

__all__ = ["Finetune", "TrainCaptioner", "TrainStudent", "TrainTeacher"]


class StepParser(OptionsParser):
    """Gives the options by name, as a step takes them."""

    def make(self, values: dict[str, Any]) -> tuple[dict[str, Any]]:
        return (values,)


class Training:
    step: str  # of emocap.steps
    resumed = ("Go on", ("--resume_from_checkpoint", "true"))

    @classmethod
    def parser(cls) -> OptionsParser:
        from emocap import arguments

        own = getattr(arguments, f"{cls.step.removeprefix('train_')}_parser")()
        return StepParser(*own.parts, defaults=own.defaults)

    @classmethod
    def run(cls, options: dict[str, Any]) -> "Result":
        from emocap import steps

        rest = {name: value for name, value in options.items() if name != "dataset"}
        return getattr(steps, cls.step)(options["dataset"], **rest)

    @classmethod
    def show(cls, options: dict[str, Any], result: "Result") -> None:
        from emocap.commands.printing import print_result

        print_result(result)
        print(f"Model, figures and card: {options['output_dir']}")


class TrainTeacher(Training):
    """train a teacher on human labels"""

    step = "train_teacher"

    @staticmethod
    def following(options: dict[str, Any], result: "Result") -> str:
        return command_line("evaluate", options["output_dir"], "--dataset", options["dataset"], "--controls")


class TrainStudent(Training):
    """train a student"""

    step = "train_student"

    @staticmethod
    def following(options: dict[str, Any], result: "Result") -> str:
        own = ("--student", options["output_dir"], "--strategy", "anb+", "--output_dir", "runs/anb+")
        return command_line("finetune", "--dataset", "ID_OR_DIR", *own)


class Finetune(Training):
    """fine-tune onto the target: AnB, AnB+ and controls"""

    step = "finetune"

    @staticmethod
    def following(options: dict[str, Any], result: "Result") -> str:
        folder, page = options["output_dir"], ("--output", os.path.join(options["output_dir"], "report.html"))
        return command_line("report", f"finetuned={folder}", "--dataset", options["dataset"], *page)


class TrainCaptioner(Training):
    """train a captioner that is given wished emotions"""

    step = "train_captioner"

    @classmethod
    def show(cls, options: dict[str, Any], result: "Result") -> None:
        from emocap.commands.printing import print_losses

        print_losses(result)
        print(f"Model, figures and card: {options['output_dir']}")

    @staticmethod
    def following(options: dict[str, Any], result: "Result") -> str:
        return command_line("caption", options["output_dir"], "--image", "FILE_OR_DIR", "--emotion", "NAME")
