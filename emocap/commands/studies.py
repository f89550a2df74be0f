"""Commands of many trainings."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from emocap.options import Options, OptionsParser, option
from emocap.studies.options import CrossValidationArguments, LabelStudyArguments, TransferArguments

__all__ = ["CrossValidate", "LabelStudy", "Quickstart", "TransferStudy"]


class Quickstart(Options):
    """the whole job on the built-in corpus, offline"""

    output_dir: str = option("folder for every stage", "runs/quickstart")

    def run(self) -> None:
        from emocap.studies.quickstart import quickstart

        quickstart(self.output_dir)


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

    def run(self) -> None:
        makes_corpus = self.preset == "scenes" and self.source_dataset is None
        needed = ("source_dataset", "target_dataset", "word_embeddings")
        if missing := [f"--{name}" for name in needed if getattr(self, name) is None and not makes_corpus]:
            raise ValueError(f"transfer-study needs {', '.join(missing)}, or --preset scenes, which makes its own.")
        from emocap.studies import transfer_study
        from emocap.studies.transfer_report import study_table, write_study

        if makes_corpus:
            from emocap.studies.scenes_corpus import scenes_corpus

            for name, path in scenes_corpus(Path(self.output_dir, "corpus")).items():
                setattr(self, name, path)
        study = transfer_study.TransferStudy(self)
        study.perform_all()
        print(study_table(write_study(study), self.metric))
        print(f"Table and figure: {study.output_dir}")


class LabelStudy(LabelStudyArguments):
    """whether pseudo-labels help: students with and without them; what is finished is not repeated"""

    def run(self) -> None:
        from emocap.studies import label_study
        from emocap.studies.label_report import format_study, write_study

        study = label_study.LabelStudy(self)
        study.perform_all()
        print(format_study(write_study(study)))
        print(f"Table, figure and figures as JSON: {study.output_dir}")


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
    def run(own: CrossValidationArguments, flags: list[str]) -> None:
        from emocap.commands.printing import print_result
        from emocap.studies.cross_validation import cross_validate

        print_result(cross_validate(own, flags))
