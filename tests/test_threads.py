"""Studies compute in one thread and give the others back."""

from types import SimpleNamespace

import pytest
import torch

from emocap.studies import quickstart as quickstart_module
from emocap.studies import skeleton
from emocap.studies.label_study import LabelStudy
from emocap.studies.transfer_study import TransferStudy


@pytest.fixture
def threads():
    """Two threads, as a notebook may have set; what the functions under test saw goes into the list."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield []
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["quickstart", "transfer-study", "label-study"])
def test_threads_come_back_after_a_study_that_fails(name, threads, monkeypatch, tmp_path):
    def stop(*args, **kwargs):
        threads.append(torch.get_num_threads())
        raise KeyboardInterrupt

    monkeypatch.setattr(skeleton, "quiet", lambda: None)
    monkeypatch.setattr(quickstart_module, "make_corpus", stop)
    study = SimpleNamespace(prepare=stop)
    jobs = {
        "quickstart": lambda: quickstart_module.quickstart(str(tmp_path)),
        "transfer-study": lambda: TransferStudy.perform_all(study),
        "label-study": lambda: LabelStudy.perform_all(study),
    }
    with pytest.raises(KeyboardInterrupt):
        jobs[name]()
    assert threads == [1] and torch.get_num_threads() == 2
