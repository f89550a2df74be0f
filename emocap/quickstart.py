"""The whole job on the built-in corpus: every stage as a user runs it, through the same functions as the commands."""

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import yaml
from datasets import DatasetDict
from transformers import BertTokenizer, VisualBertConfig, VisualBertModel, set_seed

from emocap.arguments import finetune_parser, parse_arguments, student_parser, teacher_parser
from emocap.data.scenes import load_scenes
from emocap.data.schema import NUM_REGIONS, label_names
from emocap.data.storage import load_table, save_table
from emocap.evaluation.inference import evaluate_checkpoint
from emocap.pseudo_labels.labelling import label_tables
from emocap.regions import SCENES_DETECTOR, extract_regions
from emocap.report.page import format_table, results_rows, write_report
from emocap.threads import one_thread
from emocap.training.jobs import finetune, train_student, train_teacher

__all__ = ["quickstart"]

NUM_EXAMPLES = 24
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@one_thread()
def quickstart(output_dir: str) -> None:
    """Corpus, regions, teacher, pseudo-labels, student, AnB, AnB+ and scratch, evaluation, report.

    Everything lies in a folder of `output_dir` of its own; the table at the end and report.html compare the models.
    """
    output = Path(output_dir)
    settings = yaml.safe_load(resources.files("emocap.presets").joinpath("quickstart.yaml").read_text("utf-8"))
    runs = {name: output / name for name in ("teacher", "student", "scratch", "anb", "anb+")}
    for folder in runs.values():
        shutil.rmtree(folder, ignore_errors=True)
    tables, labelled = make_corpus(output, settings)
    with stage("Training the student on the pseudo-labels"):
        train(
            student_parser,
            train_student,
            runs["student"],
            settings["student"],
            dataset=output / "labelled",
            word_embeddings=output / "body",  # untrained: the target reaches the student by pseudo-labels alone
        )
    with stage("Measuring the student on the target's human labels"):
        on_target = output / "student_on_target"
        evaluate_checkpoint(str(runs["student"]), tables, output=on_target / "metrics.json")
        shutil.copy(runs["student"] / "trainer_state.json", on_target)
    for strategy in ("scratch", "anb", "anb+"):
        with stage(f"Fine-tuning the student onto the target: {strategy}"):
            train(
                finetune_parser,
                finetune,
                runs[strategy],
                settings["finetune"],
                dataset=output / "regions",
                student=runs["student"],
                strategy=strategy,
            )
    with stage("Writing the report"):
        runs["student"] = on_target
        write_report(
            output / "report.html",
            title="emocap quickstart",
            runs=runs,
            examples=labelled_examples(labelled["train"]),
            tables=tables,
        )
    print(format_table(results_rows(runs)))
    print(f"Report: {output / 'report.html'}")


def make_corpus(output: Path, settings: dict[str, dict]) -> tuple[DatasetDict, DatasetDict]:
    """The corpus with region features, and its source pictures labelled by a teacher of the target: folders `scenes`,
    `extractor`, `regions`, `body`, `teacher` and `labelled` of `output`."""
    with stage("Drawing the corpus"):
        save_table(load_scenes(**settings["scenes"]), output / "scenes")
    with stage("Extracting region features"):
        shutil.copytree(SCENES_DETECTOR, output / "extractor", dirs_exist_ok=True)
        tables = extract_regions(load_table(output / "scenes"), str(output / "extractor"), output / "regions")
    with stage("Training the teacher"):
        make_body(tables, output / "body", settings["body"])
        train(
            teacher_parser,
            train_teacher,
            output / "teacher",
            settings["teacher"],
            dataset=output / "regions",
            model_name_or_path=output / "body",
            region_extractor=output / "extractor",
        )
    with stage("Labelling the source pictures"):
        source = DatasetDict({"train": tables["source"]})
        labelled = label_tables(source, str(output / "teacher"), output / "labelled", **settings["label"])
    return tables, labelled


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Announces a stage and says how long it took."""
    print(f"== {name}", flush=True)
    start = time.perf_counter()
    yield
    print(f"   {time.perf_counter() - start:.0f} s", flush=True)


def train(parser, job, output_dir: Path, settings: dict[str, object], **paths: object) -> None:
    """One training job, its flags from the preset and the paths of this run."""
    flags = []
    for name, value in (settings | paths | {"output_dir": output_dir}).items():
        flags += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    job(*parse_arguments(parser(), flags))


def make_body(tables: DatasetDict, folder: Path, settings: dict[str, int], seed: int = 0) -> None:
    """An untrained VisualBERT and a WordPiece vocabulary of the corpus's own captions, saved like any checkpoint."""
    set_seed(seed)
    captions = [caption for split in ("train", "source") for own in tables[split]["captions"] for caption in own]
    tokenizer = make_tokenizer(captions, settings["vocab_size"])
    dim = tables["train"].features["region_features"].length // NUM_REGIONS
    config = VisualBertConfig(
        **(settings | {"vocab_size": len(tokenizer)}), visual_embedding_dim=dim, pad_token_id=tokenizer.pad_token_id
    )
    VisualBertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_tokenizer(captions: list[str], vocab_size: int) -> BertTokenizer:
    """A WordPiece vocabulary of single characters and the most frequent words. Ties go by the alphabet: the trainer of
    the tokenizers library breaks them another way each run."""
    backend = BertTokenizer().backend_tokenizer
    counts = Counter(
        word
        for caption in captions
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(caption))
    )
    characters = sorted(set("".join(counts)))
    pieces = [*SPECIAL_TOKENS, *characters, *(f"##{character}" for character in characters)]
    words = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if len(word) > 1]
    vocabulary = [*pieces, *words][:vocab_size]
    return BertTokenizer(vocab={piece: index for index, piece in enumerate(vocabulary)})


def labelled_examples(table) -> list[dict[str, object]]:
    """Pictures with their pseudo-labels for the report's grid."""
    names = label_names(table)
    return [
        {
            "image": row["image"],
            "caption": row["captions"][0],
            "emotions": [names[label] for label in row["emotions"]],
            "truth": None,
        }
        for row in table.select(range(min(NUM_EXAMPLES, len(table))))
    ]
