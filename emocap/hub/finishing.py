"""What a training job ends with: the card of its folder, and its publication where that is asked for."""

from collections.abc import Callable
from pathlib import Path

from emocap.arguments import EmocapTrainingArguments
from emocap.cards.models import write_model_card
from emocap.hub.publishing import check_login, publish

__all__ = ["train_and_publish"]


def train_and_publish(
    job: Callable, data_args, model_args, training_args: EmocapTrainingArguments
) -> dict[str, float]:
    """Runs a training job, writes its card, and with `--push_to_hub` publishes the folder as `emocap publish` would;
    `Trainer` itself pushes nothing. Whether the Hub takes the token is asked before the training, not after hours.

    Args:
        job: `train_teacher`, `train_student` or `finetune`.
        data_args, model_args, training_args: what it takes.
    """
    is_asked, training_args.push_to_hub = training_args.push_to_hub and training_args.should_save, False
    repo_id = training_args.hub_model_id or Path(training_args.output_dir).name
    if is_asked:
        check_login(repo_id, training_args.hub_token)
    metrics = job(data_args, model_args, training_args)
    if training_args.should_save:
        write_model_card(Path(training_args.output_dir))
    if is_asked:
        publish(
            training_args.output_dir,
            repo_id,
            private=bool(training_args.hub_private_repo),
            revision=training_args.hub_revision,
            token=training_args.hub_token,
        )
    return metrics
