"""What the studies take. Nothing heavy is imported here, so that `--help` answers at once."""

from typing import Annotated, Literal

from emocap.options import Amount, Count, Options, option, required

__all__ = ["CrossValidationArguments", "LabelStudyArguments", "StudyArguments", "TransferArguments"]


class StudyArguments(Options):
    """The student of a study, how it trains, and where everything goes."""

    output_dir: str = required("Folder of the runs; a further call adds what is not yet there.")
    image_size: Count = option("Side in pixels to which photos are resized.", 64)
    cnn_channels: list[Count] = option("Channels of the strided convolutions.", [16, 32, 64])
    hidden_size: Count = option("Width of the GRU and of fc1.", 64)
    max_steps: Count = option("Steps on the target at most.", 300)
    num_evaluations: Count = option("Evaluations on the validation rows at most.", 10)
    patience: Count = option("Stop after so many evaluations without a better one.", 4)
    learning_rate: Amount = option("Peak learning rate of AdamW.", 1e-3)
    batch_size: Count = option("Pairs a step.", 32)
    weight_decay: Amount = option("Of weights; biases and norms have none.", 0.01)
    metric: str = option("What the best state, gains, table and figure go by.", "map_macro")
    jobs: Count = option("Processes that train, one thread each.", 1)
    readme: str | None = option("Put the table into this markdown file ...")
    block: str  # each study's own


class TransferArguments(StudyArguments):
    """The transfer study: two tables, a student's architecture, and which networks to train."""

    source_dataset: str | None = option(
        "A: folder or Hub id of a table with labels or pseudo-labels. Preset scenes makes its own."
    )
    target_dataset: str | None = option("B: folder or Hub id of a table with human labels.")
    word_embeddings: str | None = option("Folder or Hub id of the BERT checkpoint whose vocabulary the student takes.")
    freeze_word_embeddings: bool = option(
        "Give every network, scratch too, these word embeddings and freeze them; else each draws its own, "
        "which are learned and pass like any other layer.",
        True,
    )
    max_length: Annotated[int, "[3, inf)"] | None = option("Tokens kept of a caption: 32 as in the study.")
    source_label_column: str | None = option("What the source teaches: emotion_scores where it has pseudo-labels.")
    target_label_column: str | None = option("What the target teaches: labels.")
    directions: list[Literal["source_to_target", "target_to_source"]] = option(
        "Which side is A.", ["source_to_target", "target_to_source"]
    )
    strategies: list[str] = option(
        "Ways to start; scratch, the base network of the others, always runs. 'bnb+ matched': the control "
        "of equal length, whose base network takes as many steps on its own rows as A's took.",
        ["scratch", "anb", "anb+", "bnb", "bnb+", "bnb+ matched", "random"],
    )
    num_layers: list[str] = option(
        "Numbers of layers that pass: every, all (the head too), or some numbers.", ["every"]
    )
    sizes: list[Count] = option("Training rows of the side that is B.", [100, 300, 1000])
    layer_sizes: list[Count] = option("Sizes at which num_layers counts; at the others all pass. None: all.", [])
    num_seeds: Count = option("Draws of rows, base networks and fresh layers.", 4)
    base_steps: Count = option("Steps at most of networks trained on all rows of A.", 1500)
    max_eval_samples: Count | None = option("Keep the first N validation rows.")
    block: str = option("... between its '<!-- BLOCK -->' comments.", "transfer")


class LabelStudyArguments(StudyArguments):
    """What pseudo-labels are worth: the tables, and which students to train."""

    source_dataset: str = required("Folder or Hub id of what `emocap label` wrote.")
    target_dataset: str = required("Folder or Hub id of a table with human labels.")
    word_embeddings: str = required("Folder or Hub id of the BERT checkpoint whose vocabulary the student takes.")
    freeze_word_embeddings: bool = option("Leave the word embeddings as they are.", True)
    source_split: str = option("Split of the source; a tenth of it validates.", "train")
    images_per_label: list[Count] = option("P: best images an emotion. All images always run.", [50, 200, 1000])
    selections: list[Literal["selected", "random"]] = option(
        "The best images, or as many drawn at random.", ["selected", "random"]
    )
    targets: list[Literal["soft", "hard"]] = option(
        "What images teach: probabilities, or selected emotions.", ["soft", "hard"]
    )
    num_target: Count = option("Training rows of the target.", 300)
    num_seeds: Count = option("Repetitions, from which the intervals come.", 3)
    pretrain_steps: Count = option("Steps on the pseudo-labels at most.", 1500)
    max_eval_samples: Count = option("Validation rows at most.", 500)
    block: str = option("... between its '<!-- BLOCK -->' comments.", "label_study")


class CrossValidationArguments(Options):
    """What cross-validation takes beside what the teacher's training takes."""

    num_folds: Annotated[int, "[2, inf)"] = option("Folds, by a hash of the image id or group.", 5)
    vary: list[str] = option(
        "Values to choose from, such as learning_rate=5e-5,1e-4 or label_column=labels,soft_labels; several, or the "
        "flag again, are a grid. Without it one setting is measured.",
        [],
        action="extend",
        metavar="FLAG=VALUE,VALUE",
    )
    num_seeds: Count = option("Models a fold and setting.", 1)
    choose_by: str = option("Metric on validation rows.", "map_macro")
    together: list[str] = option(
        "Output folders of finished cross-validations of the same rows: their models of a fold answer together with "
        "this one's, in the figures called committee.",
        [],
        metavar="DIR",
    )
