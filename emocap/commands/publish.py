"""Commands that bring finished runs to people: a report, a file for other software, the Hub."""

from pathlib import Path

from emocap.options import Options, option, positional, required

__all__ = ["Export", "Publish", "PublishFamily", "Report"]


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

    def run(self) -> None:
        from emocap.data.storage import load_table
        from emocap.records import records_folder
        from emocap.report.page import format_table, markdown_table, results_rows, update_block, write_report

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
        print(format_table(rows))


class Export(Options):
    """a student as an ONNX file"""

    model: str = positional("MODEL", "folder or Hub id of a student")
    output: str = required("the file to write", metavar="FILE.onnx")
    int8: bool = option("8-bit embeddings and products (dynamic quantisation)", False)
    dataset: str | None = option("folder or Hub id of a table with human labels, to compare file and model on")
    split: str = option("its split", "test")

    def run(self) -> None:
        from emocap.data.storage import load_table
        from emocap.export import export_onnx, measure_export

        tables = load_table(self.dataset) if self.dataset else None
        if tables and self.split not in tables:
            raise ValueError(f"'{self.dataset}' has no split '{self.split}' (splits: {', '.join(tables)}).")
        path = export_onnx(self.model, self.output, int8=self.int8)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
        if tables:
            scores = measure_export(path, self.model, tables[self.split])
            for name in ("map_macro", "lrap", "bce"):
                model, file = scores["checkpoint"][name], scores["onnx"][name]
                print(f"{name:12} model {model:.4f}, file {file:.4f}, difference {file - model:+.4f}")


class Publication(Options):
    private: bool = option("make new repositories private", False)
    license: str | None = option("the Hub's id of a licence for the card (that of the data, where known)")
    dry_run: bool = option("list files, sizes and changes, and push nothing", False)

    def show(self, publication) -> None:
        if self.dry_run:
            print(publication.describe())
        elif publication.commit is None:
            print("Nothing has changed: no commit.")
        else:
            print(f"{len(publication.added)} files added, {len(publication.deleted)} deleted: {publication.commit}")
        print(publication.address, flush=True)


class Publish(Publication):
    """a run, an extractor or a table with its card, to the Hub"""

    folder: str = positional("DIR", "folder of a finished run, an extractor or a table; 'metric' for the metrics")
    repo_id: str = required("name or owner/name", metavar="NAME")
    revision: str | None = option("branch to push to, made if absent (main)")
    create_pr: bool = option("open a pull request instead", False)

    def run(self) -> None:
        from emocap.hub.publishing import publish

        self.show(publish(**self.but()))


class PublishFamily(Publication):
    """every run, extractor and labelled table of a folder, linked"""

    folder: str = positional("RUNS_DIR", "folder of folders, such as a quickstart's")
    namespace: str | None = option("user or organisation (yourself)")
    prefix: str = option("names are PREFIX-FOLDER", "emocap")

    def run(self) -> None:
        from emocap.hub.family import publish_family

        publish_family(**self.but(), report=self.show)
