"""Commands that train one model. Their options are transformers' too, which are loaded when they are asked for."""

from typing import TYPE_CHECKING, Any

from emocap.options import OptionsParser

if TYPE_CHECKING:
    from emocap.records import Result

__all__ = ["Finetune", "TrainCaptioner", "TrainStudent", "TrainTeacher"]


class StepParser(OptionsParser):
    """Gives the options by name, as a step takes them."""

    def make(self, values: dict[str, Any]) -> tuple[dict[str, Any]]:
        return (values,)


class Training:
    step: str  # of emocap.steps

    @classmethod
    def parser(cls) -> OptionsParser:
        from emocap import arguments

        own = getattr(arguments, f"{cls.step.removeprefix('train_')}_parser")()
        return StepParser(*own.parts, defaults=own.defaults)

    @classmethod
    def run(cls, options: dict[str, Any]) -> None:
        from accelerate import PartialState

        from emocap import steps

        result = getattr(steps, cls.step)(options.pop("dataset"), **options)
        if PartialState().is_main_process:
            cls.show(result)

    @classmethod
    def show(cls, result: "Result") -> None:
        from emocap.commands.printing import print_result

        print_result(result)


class TrainTeacher(Training):
    """train a teacher on human labels"""

    step = "train_teacher"


class TrainStudent(Training):
    """train a student"""

    step = "train_student"


class Finetune(Training):
    """fine-tune onto the target: AnB, AnB+ and controls"""

    step = "finetune"


class TrainCaptioner(Training):
    """train a captioner that is given wished emotions"""

    step = "train_captioner"

    @classmethod
    def show(cls, result: "Result") -> None:
        from emocap.commands.printing import print_losses

        print_losses(result)
