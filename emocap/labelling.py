"""The labelling job: a teacher scores every image of a table, and pseudo-labels are selected from the scores."""

import shutil

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value, concatenate_datasets

from emocap.data.shards import map_in_shards
from emocap.data.storage import DataReport, check_output_dir, load_table, save_table
from emocap.inference import check_features, load_config, load_model, score_table
from emocap.pseudo_labels import select_pseudo_labels

__all__ = ["label_tables"]

HUMAN_COLUMNS = ("labels", "soft_labels", "votes", "num_annotators")


def label_tables(
    tables: DatasetDict,
    teacher: str,
    output_dir: str,
    *,
    labels_per_image: int | None = 4,
    images_per_label: int | None = None,
    threshold: float | None = None,
    batch_size: int = 64,
) -> DatasetDict:
    """Adds `emotion_scores`, `emotions` and `selected_for` to every split and saves the table.

    An image's score is the mean probability over its captions. Human labels, where there are any, stay; `emotions`
    becomes the pseudo-labels. A killed job goes on where it was.

    Args:
        tables: a table of pairs.
        teacher: folder or Hub id of an emocap model.
        output_dir: where the augmented table goes.
        labels_per_image, images_per_label, threshold: see `select_pseudo_labels`; selected within each split.
        batch_size: pairs a step.

    Raises:
        ValueError: features of another width than the teacher's, a model of another family, or a count below 1,
            before anything is loaded.
    """
    output = check_output_dir(output_dir)
    select_pseudo_labels(np.zeros((0, 1)), labels_per_image, images_per_label, threshold)  # refuses bad counts
    config = load_config(teacher)
    for split in tables.values():
        check_features(config, split, teacher)
    model, processor = load_model(teacher)
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    columns = Features({"emotion_scores": List(Value("float32"), length=len(names))})
    weights = [float(tensor.double().sum()) for tensor in model.state_dict().values()]
    settings = {"teacher": teacher, "config": model.config.to_json_string(), "weights": weights}
    work_dir = output.with_name(f".{output.name}.scores")

    def score(shard: Dataset) -> pa.Table:
        scores = score_table(model, processor, shard, batch_size).astype(np.float32)
        flat = pa.FixedSizeListArray.from_arrays(pa.array(scores.reshape(-1)), len(names))
        return pa.table([flat], names=list(columns)).cast(columns.arrow_schema)

    labelled = {}
    for name, split in tables.items():
        new = map_in_shards(split, score, columns, work_dir / name, settings)
        scores = np.asarray(new.with_format("numpy")["emotion_scores"][:])
        selection = select_pseudo_labels(scores, labels_per_image, images_per_label, threshold)
        selected_for = [[] for _ in range(len(split))]
        for label, images in enumerate(selection.label_images):
            for image in images:
                selected_for[image].append(label)
        kinds = List(ClassLabel(names=names))
        chosen = Dataset.from_dict(
            {"emotions": selection.image_labels, "selected_for": selected_for},
            features=Features({"emotions": kinds, "selected_for": kinds}),
        )
        labelled[name] = concatenate_datasets([without_old_labels(split), new, chosen], axis=1)
    report = DataReport()
    report.extra["selection"] = {
        "teacher": teacher,
        "labels_per_image": labels_per_image,
        "images_per_label": images_per_label,
        "threshold": threshold,
    }
    save_table(DatasetDict(labelled), output_dir, report)
    shutil.rmtree(work_dir, ignore_errors=True)
    return load_table(output_dir)


def without_old_labels(split: Dataset) -> Dataset:
    """The split without earlier pseudo-labels and without columns of human labels that hold none."""
    empty = [
        column
        for column in HUMAN_COLUMNS
        if column in split.features and split.data.column(column).null_count == len(split.data)
    ]
    old = [column for column in ("emotion_scores", "emotions", "selected_for") if column in split.features]
    return split.remove_columns(empty + old)
