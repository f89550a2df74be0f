"""Flags of a student, checked before any row is read."""

from emocap.arguments import EmocapTrainingArguments, StudentArguments

__all__ = ["check_student"]


def check_student(model_args: StudentArguments, training_args: EmocapTrainingArguments) -> None:
    """Refuses flags of a student that do not go together.

    Raises:
        ValueError: names what is missing or one too many.
    """
    visualbert, start = model_args.architecture == "visualbert", model_args.model_name_or_path
    own = [name for name in ("text_encoder", "image_backbone", "image_weights") if getattr(model_args, name)]
    if visualbert and not start:
        raise ValueError("--architecture visualbert needs --model_name_or_path, the body to start from.")
    if own and (visualbert or start):
        reason = "--architecture visualbert" if visualbert else "--model_name_or_path, which brings its own"
        raise ValueError(f"--{own[0]} is for a new gru_cnn student; it does not go with {reason}.")
    if visualbert and model_args.augment_photos:
        raise ValueError("--augment_photos crops pixels; a visualbert student reads region features.")
    if model_args.augment_photos and training_args.dataloader_persistent_workers:
        raise ValueError("--augment_photos draws anew in each epoch: leave out --dataloader_persistent_workers.")
    if model_args.image_weights and not model_args.image_backbone:
        raise ValueError("--image_weights needs --image_backbone, the network that they belong to.")
    if model_args.text_encoder and (model_args.word_embeddings or model_args.word_projection_size):
        raise ValueError("--text_encoder has word embeddings of its own: leave out --word_embeddings and projection.")
    if not (visualbert or start or model_args.text_encoder or model_args.word_embeddings):
        raise ValueError(
            "--architecture gru_cnn needs --word_embeddings: the BERT checkpoint whose vocabulary it reads, such as "
            "google-bert/bert-base-uncased; or --text_encoder, a BERT that reads the captions as a whole."
        )
