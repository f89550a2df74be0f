"""Commands that bring finished runs to people: a report, a file for other software, the Hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from emocap.options import Options, option, positional, required
from emocap.terminal import command_line, say

if TYPE_CHECKING:
    from emocap.hub.publishing import Publication

__all__ = ["Export", "Publish", "PublishFamily", "PublishSpace", "Report"]


class Report(Options):
    """tables and figures from finished runs"""

    runs: list[str] = positional(
        "NAME=ID_OR_DIR",
        "a name and a finished run's folder or Hub id; a name that comes again is another seed of that run; of a "
        "captioner the folder of what evaluate --output wrote",
    )
    output: str | None = option("write the self-contained HTML page there", metavar="FILE")
    dataset: str | None = option("folder or Hub id of the table measured on: shows its pictures")
    study: str | None = option("folder of a transfer study: shows its curves", metavar="DIR")
    figures: str | None = option("write the page's figures there as PNG and PDF files", metavar="DIR")
    title: str = option("title of the page", "emocap")
    readme: str | None = option("put the table into this markdown file", metavar="FILE")
    block: str = option("between its '<!-- BLOCK -->' comments", "results")

    def run(self) -> list[dict[str, Any]]:
        from emocap.data.storage import load_table
        from emocap.records import records_folder
        from emocap.report.page import markdown_table, results_rows, update_block, write_report

        if any("=" not in run for run in self.runs):
            raise ValueError("Give each run as NAME=ID_OR_DIR, such as teacher=runs/teacher.")
        runs = {}
        for name, _, folder in (run.partition("=") for run in self.runs):
            runs.setdefault(name, []).append(records_folder(folder))
        rows = results_rows(runs)
        if self.readme and not rows:
            raise ValueError("--readme takes a table of teachers and students, and all runs are captioners.")
        if self.output:
            write_report(
                Path(self.output),
                title=self.title,
                runs=runs,
                tables=load_table(self.dataset) if self.dataset else None,
                study=self.study,
                figures=self.figures,
            )
        elif self.figures:
            raise ValueError("--figures draws the charts of the page; give --output too.")
        if self.readme:
            update_block(Path(self.readme), self.block, markdown_table(rows))
        return rows

    def show(self, result: list[dict[str, Any]]) -> None:
        from emocap.report.page import format_table

        print(format_table(result))
        if self.output:
            print(f"Report: {self.output}")

    def following(self, result: list[dict[str, Any]]) -> str:
        return command_line("publish", self.runs[0].partition("=")[2], "--repo_id", "NAME", "--dry_run")


class Export(Options):
    """a student as an ONNX file"""

    model: str = positional("MODEL", "folder or Hub id of a student")
    output: str = required("the file to write", metavar="FILE.onnx")
    int8: bool = option("8-bit embeddings and products (dynamic quantisation)", False)
    dataset: str | None = option("folder or Hub id of a table with human labels, to compare file and model on")
    split: str = option("its split", "test")

    def run(self) -> dict[str, Any]:
        from emocap.data.storage import load_table
        from emocap.export import export_onnx, measure_export

        tables = load_table(self.dataset) if self.dataset else None
        if tables and self.split not in tables:
            raise ValueError(f"'{self.dataset}' has no split '{self.split}' (splits: {', '.join(tables)}).")
        path = export_onnx(self.model, self.output, int8=self.int8)
        scores = measure_export(path, self.model, tables[self.split]) if tables else {}
        return {"output": str(path), "bytes": path.stat().st_size, **scores}

    def show(self, result: dict[str, Any]) -> None:
        print(f"{result['output']}: {result['bytes'] / 1e6:.1f} MB")
        for name in ("map_macro", "lrap", "bce") if "onnx" in result else ():
            model, file = result["checkpoint"][name], result["onnx"][name]
            print(f"{name:12} model {model:.4f}, file {file:.4f}, difference {file - model:+.4f}")

    def following(self, result: dict[str, Any]) -> str:
        return command_line("publish", self.model, "--repo_id", "NAME", "--dry_run")


class Published(Options):
    private: bool = option("make new repositories private", False)
    license: str | None = option("the Hub's id of a licence for the card (that of the data, where known)")
    dry_run: bool = option("list files, sizes and changes, and push nothing", False)

    def show_one(self, publication: "Publication") -> None:
        if self.dry_run:
            print(publication.describe())
        elif publication.commit is None:
            print("Nothing has changed: no commit.")
        else:
            print(f"{len(publication.added)} files added, {len(publication.deleted)} deleted: {publication.commit}")
        print(publication.address)

    def for_good(self, name: str) -> str:
        """The command that does what this one would do."""
        given = {name: value for name, value in self.but("dry_run").items() if value not in (None, False)}
        return command_line(name, *self.parser().flags_of(given))


class Publish(Published):
    """a run, an extractor or a table with its card, to the Hub"""

    folder: str = positional("DIR", "folder of a finished run, an extractor or a table; 'metric' for the metrics")
    repo_id: str = required("name or owner/name", metavar="NAME")
    revision: str | None = option("branch to push to, made if absent (main)")
    create_pr: bool = option("open a pull request instead", False)

    def run(self) -> "Publication":
        from emocap.hub.publishing import publish

        return publish(**self.but())

    def show(self, result: "Publication") -> None:
        self.show_one(result)

    def following(self, result: "Publication") -> str | None:
        if self.dry_run:
            return self.for_good("publish")
        return use_of(result)


class PublishFamily(Published):
    """every run, extractor and labelled table of a folder, linked"""

    folder: str = positional("RUNS_DIR", "folder of folders, such as a quickstart's")
    namespace: str | None = option("user or organisation (yourself)")
    prefix: str = option("names are PREFIX-FOLDER", "emocap")

    def run(self) -> "list[Publication]":
        from emocap.hub.family import publish_family

        return publish_family(**self.but(), report=lambda publication: say(publication.address))

    def show(self, result: "list[Publication]") -> None:
        for publication in result:
            self.show_one(publication)

    def following(self, result: "list[Publication]") -> str | None:
        if self.dry_run:
            return self.for_good("publish-family")
        return use_of(result[-1])


class PublishSpace(Published):
    """the app of `emocap demo` over published models, as a Space"""

    model: list[str] = positional("MODEL", "Hub id of a teacher or student; several answer side by side")
    repo_id: str = required("name or owner/name; publish-family links to OWNER/PREFIX-demo", metavar="NAME")
    captioner: str | None = option("Hub id of a captioner, which writes captions towards wished emotions")
    examples: str | None = option(
        "folder of photos to choose from, published too, with captions in .txt files beside them (drawn scenes)",
        metavar="DIR",
    )

    def run(self) -> "Publication":
        from emocap.hub.space import publish_space

        return publish_space(**self.but())

    def show(self, result: "Publication") -> None:
        self.show_one(result)

    def following(self, result: "Publication") -> str | None:
        return self.for_good("publish-space") if self.dry_run else None


def use_of(publication: "Publication") -> str | None:
    """What to do with what is published; None where no command reads it."""
    if publication.repo_type == "dataset":
        own = ("--word_embeddings", "ID_OR_DIR", "--output_dir", "runs/student")
        return command_line("train-student", "--dataset", publication.repo_id, *own)
    return (
        command_line("predict", publication.repo_id, "--image", "FILE") if publication.repo_type == "model" else None
    )
