"""Markers of transformers' own suites, which `test_transformers_suites.py` runs where they are at hand."""

import pytest

MARKERS = ("accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "torch_compile_test")


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: of transformers' suites")
