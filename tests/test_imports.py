"""What importing emocap loads, and that its classes are registered whichever import comes first."""

import json
import subprocess
import sys

import pytest

import emocap
from emocap.commands import COMMANDS

HEAVY = ("torch", "torchvision", "transformers", "datasets", "numpy", "evaluate", "accelerate", "matplotlib")


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


SLOW = {"train-captioner", "train-teacher", "train-student", "finetune", "cross-validate"}
"""Commands whose options are transformers' too."""


def test_help_loads_no_heavy_package():
    code = """
import json, sys
from emocap.cli import main
for command in json.loads(sys.argv[1]):
    try:
        main([*command, "--help"])
    except SystemExit as stop:
        assert stop.code == 0
    else:
        raise AssertionError(command)
print("LOADED", *(name for name in json.loads(sys.argv[2]) if name in sys.modules))
"""
    commands = [[], ["data"], *(name.split() for name in COMMANDS if name not in SLOW)]
    assert ["transfer-study"] in commands and ["data", "coco"] in commands and len(commands) >= 18
    printed = run(code, json.dumps(commands), json.dumps(HEAVY))
    assert printed.count("usage: emocap") == len(commands)
    assert printed.rpartition("LOADED")[2].split() == []


REGISTERED = """
import sys
from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY
assert type(AutoProcessor.from_pretrained(sys.argv[1])).__module__ == "emocap.models.processing_emocap"
config = AutoConfig.from_pretrained(sys.argv[1])
assert type(config).__module__ == "emocap.models.configuration_emocap_teacher", type(config)
model = AutoModel.from_pretrained(sys.argv[1])
assert type(model).__module__ == "emocap.models.modeling_emocap_teacher", type(model)
assert "emotion-recognition" in PIPELINE_REGISTRY.supported_tasks
import transformers, importlib.util
spec = importlib.util.find_spec("transformers")
assert "emocap" not in type(spec.loader).__module__ + type(transformers.__loader__).__module__
"""


@pytest.mark.parametrize(
    "first",
    [
        "import emocap",
        "import transformers; import emocap",
        # a look-up alone changes nothing; evaluate imports transformers while it is itself being imported
        "import emocap; import importlib.util; importlib.util.find_spec('transformers').loader.get_source; "
        "import evaluate",
        "import emocap; from transformers.generation import utils",
        "from emocap import *",
    ],
)
def test_auto_classes_know_the_models_whatever_is_imported_first(tiny_teacher, first):
    run(f"{first}\n{REGISTERED}", tiny_teacher)


def test_public_names():
    for name in emocap.__all__:
        assert getattr(emocap, name).__name__ == name
    assert set(emocap.__all__) <= set(dir(emocap))
    with pytest.raises(AttributeError, match="'emocap' has no attribute 'load_nothing'"):
        emocap.load_nothing  # noqa: B018
