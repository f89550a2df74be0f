"""Commands of many trainings."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from emocap.options import Options, OptionsParser, option
from emocap.studies.options import CrossValidationArguments, LabelStudyArguments, TransferArguments
from emocap.terminal import command_line

if TYPE_CHECKING:
    from emocap.records import Result

__all__ = ["CrossValidate", "LabelStudy", "Quickstart", "TransferStudy"]


class Quickstart(Options):
    """the whole job on the built-in corpus, offline"""

    output_dir: str = option("folder for every stage", "runs/quickstart")

    resumed = ("Start again", ())

    def run(self) -> list[dict[str, Any]]:
        from emocap.studies.quickstart import quickstart

        return quickstart(self.output_dir)

    def show(self, result: list[dict[str, Any]]) -> None:
        from emocap.report.page import format_table

        print(format_table(result))
        print(f"Report: {Path(self.output_dir, 'report.html')}")

    def following(self, result: list[dict[str, Any]]) -> str:
        return command_line("predict", Path(self.output_dir, "anb+"), "--caption", "a dancer on stage")


class TransferParser(OptionsParser):
    """Puts the settings that `--preset` names before the flags."""

    def with_file(self, argv: Sequence[str]) -> list[str]:
        flags = super().with_file(argv)
        found = self.parse_known_args(self.spelled(flags))[0].preset
        return [*self.file_flags(f"transfer_{found}"), *flags] if found else flags


class TransferStudy(TransferArguments):
    """every strategy, number of layers, size and seed in one table and one figure; what is finished is not repeated"""

    preset: Literal["scenes", "real"] | None = option(
        "settings to start from; flags override them. scenes makes the built-in corpus and labels it too"
    )

    @classmethod
    def parser(cls) -> OptionsParser:
        return TransferParser(cls)

    def run(self) -> list[dict[str, Any]]:
        makes_corpus = self.preset == "scenes" and self.source_dataset is None
        needed = ("source_dataset", "target_dataset", "word_embeddings")
        if missing := [f"--{name}" for name in needed if getattr(self, name) is None and not makes_corpus]:
            raise ValueError(f"transfer-study needs {', '.join(missing)}, or --preset scenes, which makes its own.")
        from emocap.studies import transfer_study
        from emocap.studies.transfer_report import write_study

        if makes_corpus:
            from emocap.studies.scenes_corpus import scenes_corpus

            for name, path in scenes_corpus(Path(self.output_dir, "corpus")).items():
                setattr(self, name, path)
        study = transfer_study.TransferStudy(self)
        study.perform_all()
        return write_study(study)

    def show(self, result: list[dict[str, Any]]) -> None:
        from emocap.studies.transfer_report import study_table

        print(study_table(result, self.metric))
        print(f"Table and figure: {self.output_dir}")

    def following(self, result: list[dict[str, Any]]) -> str:
        tables = ("--source_dataset", self.source_dataset, "--target_dataset", self.target_dataset)
        own = ("--word_embeddings", self.word_embeddings, "--output_dir", "runs/label_study")
        return command_line("label-study", *tables, *own)


class LabelStudy(LabelStudyArguments):
    """whether pseudo-labels help: students with and without them; what is finished is not repeated"""

    def run(self) -> dict[str, Any]:
        from emocap.studies import label_study
        from emocap.studies.label_report import write_study

        study = label_study.LabelStudy(self)
        study.perform_all()
        return write_study(study)

    def show(self, result: dict[str, Any]) -> None:
        from emocap.studies.label_report import format_study

        print(format_study(result))
        print(f"Table, figure and figures as JSON: {self.output_dir}")

    def following(self, result: dict[str, Any]) -> str:
        own = ("--word_embeddings", self.word_embeddings, "--output_dir", "runs/student")
        return command_line("train-student", "--dataset", self.source_dataset, *own)


class FoldsParser(OptionsParser):
    """Reads the command's own options, and leaves the teacher's as flags: every fold adds to them."""

    def make(self, values: dict[str, Any]) -> tuple:
        own = {name: values.pop(name) for name in [own.name for own in fields(self.parts[0])] if name in values}
        return self.parts[0](**own), self.flags_of(values)


class CrossValidate:
    """choose a teacher's settings and measure them, by nested cross-validation"""

    @staticmethod
    def parser() -> OptionsParser:
        from emocap.arguments import teacher_parser

        teacher = teacher_parser()
        return FoldsParser(CrossValidationArguments, *teacher.parts, defaults=teacher.defaults)

    @staticmethod
    def run(own: CrossValidationArguments, flags: list[str]) -> "Result":
        from emocap.studies.cross_validation import cross_validate

        return cross_validate(own, flags)

    @staticmethod
    def show(own: CrossValidationArguments, flags: list[str], result: "Result") -> None:
        from emocap.commands.printing import print_result

        print_result(result)

    @staticmethod
    def following(own: CrossValidationArguments, flags: list[str], result: "Result") -> str:
        from emocap.arguments import teacher_parser

        given = teacher_parser().given(flags)
        start = [word for name in ("dataset", "model_name_or_path") for word in (f"--{name}", given[name])]
        preset = Path(given["output_dir"], "preset.yaml")
        return command_line("train-teacher", preset, *start, "--output_dir", "runs/teacher")
