"""Publishing on the Hugging Face Hub: a finished run's folder as a model, a saved table as a data set."""

from pathlib import Path

from huggingface_hub import HfApi

from emocap.cards import dataset_card, model_card
from emocap.data.heavy_columns import REGIONS_CONFIG, split_regions
from emocap.data.storage import load_table

__all__ = ["publish"]

LEFT_OUT = ["checkpoint-*/**", "*.partial", "training_args.bin"]


def publish(folder: str | Path, repo_id: str, *, private: bool = False, revision: str | None = None) -> str:
    """Pushes a run's folder or a saved table with its card; returns the repository's address.

    A table's region features become a configuration of their own, "regions", beside the light table; `load_table` puts
    both together again.

    Args:
        folder: what a training command or a data command wrote.
        repo_id: `name` or `owner/name`.
        private: whether a new repository is private.
        revision: branch to push to, made if absent; main by default.

    Raises:
        FileNotFoundError: the folder holds neither a checkpoint nor a table.
    """
    folder, api = Path(folder), HfApi()
    is_model, is_table = (folder / "metrics.json").is_file(), (folder / "dataset_dict.json").is_file()
    if not is_model and not is_table:
        raise FileNotFoundError(
            f"'{folder}' is neither a finished run (metrics.json) nor a table of pairs (dataset_dict.json)."
        )
    kind = "model" if is_model else "dataset"
    url = api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True)
    if revision:
        api.create_branch(url.repo_id, repo_type=kind, branch=revision, exist_ok=True)
    if is_model:
        model_card(folder, url.repo_id).save(folder / "README.md")
        api.upload_folder(repo_id=url.repo_id, folder_path=folder, ignore_patterns=LEFT_OUT, revision=revision)
    else:
        light, heavy = split_regions(load_table(folder))
        light.push_to_hub(url.repo_id, private=private, revision=revision)
        if heavy is not None:
            heavy.push_to_hub(url.repo_id, REGIONS_CONFIG, private=private, revision=revision)
        card = dataset_card(folder, url.repo_id)
        readme = api.hf_hub_download(url.repo_id, "README.md", repo_type="dataset", revision=revision)
        pushed = type(card).load(readme)  # keeps the features and splits that push_to_hub wrote
        card.data.dataset_info, card.data.configs = pushed.data.get("dataset_info"), pushed.data.get("configs")
        card.push_to_hub(url.repo_id, repo_type="dataset", revision=revision)
    return str(url)
