"""Nothing outside of a folder is published, before any Hub is asked."""

import os
from pathlib import Path

import pytest

from emocap.hub import publishing
from emocap.hub.content import check_safe


@pytest.fixture
def folder(tmp_path) -> Path:
    """A finished run's folder; beside it what nobody may see."""
    run = tmp_path / "run"
    (run / "sub").mkdir(parents=True)
    for name in ("config.json", "metrics.json", "run_arguments.json", "sub/vocabulary.txt"):
        (run / name).write_text("{}")
    for name in ("secrets", "run-secrets"):  # the second begins with the folder's own name
        (tmp_path / name).mkdir()
        (tmp_path / name / "key.txt").write_text("secret")
    return run


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("notes.txt", "{parent}/secrets/key.txt"),
        ("notes.txt", "{parent}/run-secrets/key.txt"),
        ("notes.txt", "../secrets/key.txt"),
        ("sub/notes.txt", "../../secrets/key.txt"),
        ("sub/notes.txt", "../up/key.txt"),  # by way of a link inside
        ("more", "../secrets"),
        ("more", ".."),
        ("notes.txt", "../not_there_yet.txt"),
        ("model.safetensors", "/etc/hostname"),
    ],
)
def test_links_that_lead_outside_are_refused(folder, link, target, monkeypatch):
    if "/up/" in target:
        (folder / ".up").symlink_to("../secrets")  # hidden: it is not looked at itself
        target = target.replace("/up/", "/.up/")
    os.symlink(target.format(parent=folder.parent), folder / link)
    with pytest.raises(ValueError, match="leads outside of .*put a copy there, or remove the link"):
        check_safe(folder)
    monkeypatch.setattr(publishing, "HfApi", lambda token=None: None)  # whoever asks it for anything fails
    with pytest.raises(ValueError, match="leads outside"):
        publishing.publish(folder, "me/never")


def test_links_inside_are_none_of_those(folder):
    (folder / "same.json").symlink_to("config.json")
    (folder / "again.json").symlink_to(folder / "metrics.json")
    (folder / "sub" / "up.json").symlink_to("../config.json")
    check_safe(folder)
    reached = folder.parent / "by_link"
    reached.symlink_to(folder)
    check_safe(reached)
