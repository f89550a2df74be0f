"""Fixtures shared by the whole suite."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # several test processes share few cores


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real photos, captions and features; the test skips where it is absent."""
    folder = os.environ.get("EMOCAP_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real data is not at hand: set EMOCAP_REAL_DATA to its folder")
    return Path(folder).resolve()
