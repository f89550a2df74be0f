"""What a finished run recorded of itself, read from its folder or from the Hub."""

import json
import os
from pathlib import Path

from emocap.data.storage import HUB_ID, local_folder
from emocap.hub.public_names import PATH_KEYS

__all__ = ["recorded_arguments", "records_folder"]

ARGUMENTS_FILE = "run_arguments.json"
RECORDS = (ARGUMENTS_FILE, "metrics.json", "metrics_details.json", "trainer_state.json")


def records_folder(run: str | os.PathLike) -> Path:
    """The folder of a run's records: the run's own or, of a Hub id, a copy of them in the client's cache.

    Raises:
        FileNotFoundError: neither a folder nor a model on the Hub.
    """
    return local_folder(run, "model", RECORDS)


def recorded_arguments(run: str | os.PathLike) -> dict[str, object] | None:
    """The arguments that a run was started with; None where it has no record of them.

    A published record names what lay in a folder by the folder's name alone, which says nothing elsewhere: of a Hub
    id's record only Hub ids are kept, other names become None.
    """
    path = records_folder(run) / ARGUMENTS_FILE
    if not path.is_file():
        return None
    arguments = json.loads(path.read_text("utf-8"))
    if not os.path.isdir(run):
        for key in PATH_KEYS:
            if not HUB_ID.fullmatch(str(arguments.get(key))):
                arguments[key] = None
    return arguments
