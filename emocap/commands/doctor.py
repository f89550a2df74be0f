"""The command that looks at what is installed, reachable and missing."""

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from emocap.options import Options
from emocap.terminal import command_line

__all__ = ["EXTRAS", "Doctor"]

EXTRAS = {
    "controls": "evaluate --controls, cross-validate",
    "lexicon": "evaluate --controls, cross-validate: one more control",
    "lora": "train-captioner --language_model lora",
    "export": "export",
    "demo": "demo",
    "ray": "RegionFeatures and PseudoLabels on a cluster",
    "test": "the test suite",
    "browser": "its tests in a browser",
}
"""The package's extras, and which commands need them."""

SHOWN = ("torch", "torchvision", "transformers", "datasets", "huggingface-hub", "accelerate")


class Doctor(Options):
    """what is installed, reachable and missing: versions, devices, disk, the Hub, and which command lacks a package"""

    def run(self) -> dict[str, Any]:
        needed, extras, missing = look_at_packages()
        return {
            "python": platform.python_version(),
            "packages": needed,
            "missing": missing,
            "devices": devices(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            **look_at_disk(),
            "hub": look_at_hub(),
            "extras": extras,
        }

    def show(self, result: dict[str, Any]) -> None:
        lines = {"python": result["python"], **{name: result["packages"].get(name) for name in ("emocap", *SHOWN)}}
        for name, version in lines.items():
            print(f"{name:18}{version or 'missing'}")
        for device in result["devices"]:
            print(f"{'device':18}{device['name']}, {'bfloat16' if device['bf16'] else 'no fast bfloat16'}")
        print(f"{'cores':18}{result['cores']}")
        cache, hub = result["cache"], result["hub"]
        print(f"{'cache':18}{cache['folder']}: {gigabytes(cache['bytes'])}, {gigabytes(cache['free'])} free")
        print(f"{'working folder':18}{result['working_folder']['folder']}: ", end="")
        print(f"{gigabytes(result['working_folder']['free'])} free")
        print(f"{'Hub':18}{hub['endpoint']}: {hub['login']}")
        for name, extra in result["extras"].items():
            told = "installed" if not extra["missing"] else f"lacks {', '.join(extra['missing'])}: {extra['install']}"
            print(f"{f'extra {name}':18}{told} (for {extra['for']})")
        for name in result["missing"]:
            print(f"{'required':18}{name} is missing or too old: no command works without it")

    def following(self, result: dict[str, Any]) -> str:
        if result["missing"]:
            return f"pip install {' '.join(map(repr, result['missing']))}"
        return command_line("quickstart")

    def status(self, result: dict[str, Any]) -> int:
        return 1 if result["missing"] else 0


def look_at_packages() -> tuple[dict[str, str | None], dict[str, dict], list[str]]:
    """Versions of what emocap requires, None where it is not there; for each extra what it lacks; and the requirements
    that are not met. What is required is what the installed package says."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(text) for text in metadata.requires("emocap") or ()]
    except metadata.PackageNotFoundError:
        return {"emocap": None}, {}, ["emocap"]
    always = [own for own in requirements if own.marker is None or own.marker.evaluate({"extra": ""})]
    extras = {}
    for name, commands in EXTRAS.items():
        of_extra = [own for own in requirements if own.marker and own.marker.evaluate({"extra": name})]
        of_extra = [own for own in of_extra if own not in always]
        lacking = [own.name for own in of_extra if not is_met(own)] if of_extra else ["emocap, installed anew"]
        extras[name] = {"missing": lacking, "install": f'pip install "emocap[{name}]"', "for": commands}
    versions = {name: version_of(name) for name in ("emocap", *(own.name for own in always))}
    return versions, extras, [f"{own.name}{own.specifier}" for own in always if not is_met(own)]


def is_met(requirement: Any) -> bool:
    version = version_of(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def devices() -> list[dict[str, Any]]:
    """What models may run on, the one that they take by themselves first, and whether it is fast in bfloat16."""
    try:
        import torch
    except ImportError:
        return []
    found = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            own = torch.cuda.get_device_properties(index)
            name = f"cuda:{index} {own.name}, {own.total_memory / 1e9:.0f} GB"
            found.append({"name": name, "bf16": torch.cuda.is_bf16_supported(including_emulation=False)})
    if torch.backends.mps.is_available():
        found.append({"name": "mps", "bf16": True})
    bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return [*found, {"name": f"cpu {platform.machine()}", "bf16": bf16}]


def look_at_disk() -> dict[str, Any]:
    """The Hub's client's cache and the working folder, in bytes."""
    cache = cache_folder()
    there = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    return {
        "cache": {"folder": str(cache), "bytes": folder_size(cache), "free": shutil.disk_usage(there).free},
        "working_folder": {"folder": os.getcwd(), "free": shutil.disk_usage(".").free},
    }


def cache_folder() -> Path:
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return Path.home() / ".cache" / "huggingface" / "hub"
    return Path(HF_HUB_CACHE).absolute()


def folder_size(folder: Path) -> int:
    """Bytes of its files, each once: what is a link to another is not counted again."""
    return sum(
        entry.stat(follow_symlinks=False).st_size
        for path, _, names in os.walk(folder)
        for entry in (Path(path, name) for name in names)
        if not entry.is_symlink()
    )


def look_at_hub() -> dict[str, Any]:
    """Where the Hub is and who is logged in there; the token itself is shown to nobody."""
    try:
        from huggingface_hub import HfApi, constants, get_token
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        return {"endpoint": None, "login": "huggingface_hub is missing"}
    found = {"endpoint": constants.ENDPOINT}
    if get_token() is None:
        return found | {"login": "not logged in, which publish needs: hf auth login"}
    if constants.HF_HUB_OFFLINE:
        return found | {"login": "a token is at hand; not asked whose, as HF_HUB_OFFLINE is set"}
    try:
        return found | {"login": f"logged in as {HfApi().whoami()['name']}"}
    except HfHubHTTPError as error:
        status = error.response.status_code
        return found | {"login": f"refuses the token (status {status}): hf auth login"}
    except Exception as error:  # no connection, a proxy, no JSON: each client has errors of its own
        return found | {"login": f"cannot be reached ({type(error).__name__}); HF_HUB_OFFLINE=1 works without it"}


def gigabytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB"
