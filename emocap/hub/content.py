"""What is published of a folder: its files under the names they get, with records that leak nothing, and its card."""

import html
import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, RepoCard

from emocap.cards.components import extractor_card, metric_card
from emocap.cards.datasets import dataset_card
from emocap.cards.models import model_card
from emocap.cards.public_names import PublicNames, find_token
from emocap.data.storage import load_table
from emocap.hub.tables import table_configs, write_configs
from emocap.models import BottomUpConfig, EmocapGridConfig, EmocapRegionConfig
from emocap.records import STATISTICS_FILE
from emocap.regions.bundling import BUNDLED

__all__ = ["Content", "check_safe", "kind_of", "make_content"]

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
PUBLISHED = (".safetensors", ".json", ".txt", ".py", ".jinja", ".onnx")
KEPT_AS_IT_IS = ("tokenizer.json",)  # a vocabulary, not a record
REPO_TYPES: dict[str, Literal["model", "dataset", "space"]] = {
    "model": "model",
    "extractor": "model",
    "dataset": "dataset",
    "metric": "space",
    "demo": "space",
}
SDKS = {"metric": "static", "demo": "gradio"}
EXTRACTORS = {config.model_type: config for config in (EmocapRegionConfig, EmocapGridConfig, BottomUpConfig)}


@dataclass
class Content:
    """Files by their path in the repository, each a local path or the bytes themselves.

    Attributes:
        stale: endings of files that an earlier publish may have left there, and that go when they are not in `files`.
    """

    kind: str
    card: RepoCard
    files: dict[str, Path | bytes]
    stale: tuple[str, ...]
    left_out: list[str] = field(default_factory=list)

    @property
    def repo_type(self) -> Literal["model", "dataset", "space"]:
        return REPO_TYPES[self.kind]

    @property
    def sdk(self) -> str | None:
        """What runs a Space."""
        return SDKS.get(self.kind)

    @cached_property
    def additions(self) -> dict[str, CommitOperationAdd]:
        """The files as the client sends them; it hashes each once, and only where that is asked for."""
        return {path: CommitOperationAdd(path, data) for path, data in self.files.items()}


def kind_of(folder: Path) -> str:
    """`model`, `extractor`, `dataset` or `metric`.

    Raises:
        FileNotFoundError: none of them is in the folder.
    """
    if (folder / "dataset_dict.json").is_file():
        return "dataset"
    if (folder / "config.json").is_file():
        if json.loads((folder / "config.json").read_text("utf-8")).get("model_type") in EXTRACTORS:
            return "extractor"
        if (folder / "metrics.json").is_file() and (folder / "run_arguments.json").is_file():
            return "model"
    if not folder.is_dir() and folder.name == "metric":
        return "metric"
    raise FileNotFoundError(
        f"'{folder}' is neither a finished run (config.json, metrics.json, run_arguments.json), nor a region "
        "extractor (config.json), nor a table of pairs (dataset_dict.json). `metric` publishes the metrics."
    )


def check_safe(folder: Path) -> None:
    """Refuses pickles and links that lead outside, before anything is read.

    Raises:
        ValueError: says what is in the way, and what to do about it.
    """
    root = folder.resolve()
    for path in walk(folder):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise ValueError(
                f"'{path}' is a link that leads outside of '{folder}'. Only what lies in the folder is published: put "
                "a copy there, or remove the link."
            )
        if path.suffix.lower() in PICKLES and path.name != "training_args.bin":
            raise ValueError(
                f"'{path}' may hold pickled objects, which run code when they are loaded. Convert it to safetensors: "
                f"`AutoModel.from_pretrained('{folder}').save_pretrained('{folder}')` writes model.safetensors (or "
                "`safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'model.safetensors')`). Then "
                f"remove '{path.name}'."
            )


def walk(folder: Path):
    """Files and links of a folder; those that a run leaves for itself (hidden, checkpoint-N, .partial) aside."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "checkpoint-")) or path.name.endswith(".partial") or path.name == "__pycache__":
            continue
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from walk(path)


def make_content(
    folder: Path, kind: str, repo_id: str, names: PublicNames, staging: Path, license: str | None = None
) -> Content:
    """The files and the card of a folder of a kind as `kind_of` says; files that have to be written first go into
    `staging`, an empty folder. The card names `license`, by default what the folder has on record."""
    make = {"model": model_content, "extractor": extractor_content, "dataset": table_content, "metric": metric_content}
    content = make[kind](folder, repo_id, names, staging, license)
    content.files["README.md"] = str(content.card).encode()
    for path, data in content.files.items():
        if isinstance(data, bytes) or Path(path).suffix in (".txt", ".py", ".json"):
            text = data if isinstance(data, bytes) else data.read_bytes()
            if find_token(text.decode("utf-8", "replace")):
                raise ValueError(f"'{path}' holds an access token of the Hub. Remove it, and revoke the token.")
    return content


def model_content(folder: Path, repo_id: str, names: PublicNames, staging: Path, license: str | None) -> Content:
    """A finished run. A region extractor that lies in a folder is named by its Hub id if it is published too, and
    comes along as `extractor/` if it is not."""
    files, left_out = published_files(folder)
    if "auto_map" not in json.loads(files["config.json"].read_text("utf-8")):
        raise ValueError(
            f"'{folder}/config.json' names no code, without which the model loads nowhere but here. Save it again: "
            f"`AutoModel.from_pretrained('{folder}').save_pretrained('{folder}')` after `import emocap`."
        )
    arguments = json.loads(files["run_arguments.json"].read_text("utf-8"))
    names = names.of_run(arguments, folder)
    replaced = {}
    named = {name: json.loads(files[name].read_text("utf-8")) for name in ("config.json", "processor_config.json")}
    for extractor in {content["region_extractor"] for content in named.values() if content.get("region_extractor")}:
        replaced[extractor], bundled = public_extractor(folder, extractor, arguments.get("region_extractor"), names)
        files |= bundled
        left_out = [name for name in left_out if name != f"{os.path.normpath(extractor)}/"]
    card = model_card(folder, repo_id, names, license)
    public: dict[str, Path | bytes] = {
        name: public_json(path, names, replaced)
        if name.endswith(".json") and Path(name).name not in KEPT_AS_IT_IS
        else path
        for name, path in files.items()
    }
    return Content("model", card, public, (".safetensors", ".json", ".py"), left_out)


def published_files(folder: Path, prefix: str = "") -> tuple[dict[str, Path], list[str]]:
    """Files by name, and the names of those left out; not those of folders within."""
    files, left_out = {}, []
    for path in sorted(folder.iterdir()):
        is_published = path.is_file() and path.suffix in PUBLISHED and not path.name.startswith(".")
        if is_published:
            files[prefix + path.name] = path
        elif path.name != "README.md":
            left_out.append(prefix + path.name + "/" * path.is_dir())
    return files, left_out


def public_extractor(
    folder: Path, extractor: str, given: str | None, names: PublicNames
) -> tuple[str, dict[str, Path]]:
    """What the published checkpoint calls the region extractor that its configuration names, and the files that come
    along. `given` is what it was trained with: of an extractor inside the checkpoint, what it is a copy of.

    Raises:
        FileNotFoundError: it was in a folder that is no longer there.
    """
    inside = folder / extractor
    found = inside if inside.is_dir() else Path(extractor) if os.path.isdir(extractor) else None
    if known := names.hub_id(str(found or extractor)) or (inside.is_dir() and names.links.get(given or "")):
        return known, {}
    if found is None:
        if ":" in extractor and not os.path.isabs(extractor):
            return extractor, {}  # torchvision:NAME or vision:ID
        raise FileNotFoundError(
            f"'{folder}' reads photos with the region extractor '{extractor}', which is no longer there. Set "
            "region_extractor in its config.json and processor_config.json to the extractor's folder or Hub id."
        )
    check_safe(found)
    return f"./{BUNDLED}", published_files(found, f"{BUNDLED}/")[0]


def public_json(path: Path, names: PublicNames, replaced: dict[str, str]) -> Path | bytes:
    """A record without paths of this machine and without tokens; the file itself where it has none."""
    content = json.loads(path.read_text("utf-8"))
    cleaned = names.clean(content)
    if isinstance(content, dict) and content.get("region_extractor") in replaced:
        cleaned["region_extractor"] = replaced[content["region_extractor"]]
    return path if cleaned == content else (json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n").encode()


def extractor_content(folder: Path, repo_id: str, names: PublicNames, staging: Path, license: str | None) -> Content:
    """A region extractor with its code, which the built-in one does not have beside it."""
    files, left_out = published_files(folder)
    content = json.loads(files["config.json"].read_text("utf-8"))
    if "auto_map" not in content:
        EXTRACTORS[content["model_type"]].from_pretrained(folder).save_pretrained(staging)
        files |= published_files(staging)[0]
    public: dict[str, Path | bytes] = {**files, "config.json": public_json(files["config.json"], names, {})}
    card = extractor_card(folder, repo_id, names, license)
    return Content("extractor", card, public, (".safetensors", ".json", ".py"), left_out)


def table_content(folder: Path, repo_id: str, names: PublicNames, staging: Path, license: str | None) -> Content:
    """A saved table as parquet files, with the statistics of its pseudo-labels."""
    configs = table_configs(load_table(folder))
    metadata = write_configs(configs, staging)
    files: dict[str, Path | bytes] = {
        path.relative_to(staging).as_posix(): path for path in sorted(staging.rglob("*.parquet"))
    }
    if (folder / STATISTICS_FILE).is_file():
        files[STATISTICS_FILE] = public_json(folder / STATISTICS_FILE, names, {})
    card = dataset_card(folder, repo_id, names, metadata, configs, license)
    return Content("dataset", card, files, (".parquet",))


def metric_content(folder: Path, repo_id: str, names: PublicNames, staging: Path, license: str | None) -> Content:
    """The metrics as a Space: `evaluate.load` looks for a module of the Space's own name."""
    from emocap.metrics import metrics as module

    page = f"<!doctype html><meta charset=utf-8><title>emocap</title><pre>{html.escape(module.__doc__)}</pre>\n"
    files: dict[str, Path | bytes] = {
        f"{repo_id.rpartition('/')[2]}.py": Path(module.__file__),
        "requirements.txt": b"evaluate\ndatasets\nnumpy\n",
        "index.html": page.encode(),
    }
    return Content("metric", metric_card(repo_id, license), files, (".py",))
