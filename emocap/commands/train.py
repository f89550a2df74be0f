"""Commands that train one model. Their options are transformers' too, which are loaded when they are asked for."""

from emocap.options import OptionsParser

__all__ = ["Finetune", "TrainStudent", "TrainTeacher"]


class Training:
    job: str  # of emocap.training.jobs

    @classmethod
    def parser(cls) -> OptionsParser:
        from emocap import arguments

        return getattr(arguments, f"{cls.job.removeprefix('train_')}_parser")()

    @classmethod
    def run(cls, data_args, model_args, training_args) -> None:
        from emocap.commands.printing import print_metrics
        from emocap.hub.finishing import train_and_publish
        from emocap.training import jobs

        metrics = train_and_publish(getattr(jobs, cls.job), data_args, model_args, training_args)
        if training_args.should_log:
            print_metrics(metrics)


class TrainTeacher(Training):
    """train a teacher on human labels"""

    job = "train_teacher"


class TrainStudent(Training):
    """train a student"""

    job = "train_student"


class Finetune(Training):
    """fine-tune onto the target: AnB, AnB+ and controls"""

    job = "finetune"
