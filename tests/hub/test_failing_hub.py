"""A Hub that fails in the middle of a push: the push tries again, or is started again and goes on."""

import json
import os
import subprocess
import sys
import threading
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from datasets import DatasetDict, load_dataset
from huggingface_hub import HfApi

from emocap.data.storage import load_table


class Proxy(ThreadingHTTPServer):
    """Hands everything on to a Hub, and fails as it is told.

    Attributes:
        failing: (method, start of the path, which such request from now on, status, how many) or None.
        seen: "METHOD /path STATUS" of each request.
    """

    daemon_threads = True

    def __init__(self, target: str):
        super().__init__(("127.0.0.1", 0), Handler)
        self.target, self.failing, self.seen, self.lock = urlsplit(target).netloc, None, [], threading.Lock()

    def fault(self, method: str, path: str) -> int | None:
        """The status with which this request fails, if it does."""
        with self.lock:
            if self.failing is None or method != self.failing[0] or not path.startswith(self.failing[1]):
                return None
            method, start, wait, status, number = self.failing
            if wait > 1:
                self.failing = (method, start, wait - 1, status, number)
                return None
            self.failing = (method, start, 1, status, number - 1) if number > 1 else None
            return status


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def forward(self) -> None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/__fail"):
            self.server.failing, self.server.seen[:] = json.loads(body), []
            return self.answer(200, {}, b"{}")
        if self.path == "/__seen":
            return self.answer(200, {}, json.dumps(self.server.seen).encode())
        status = self.server.fault(self.command, self.path)
        headers, content = {}, b'{"error": "out of order"}'
        if status is None:
            connection = HTTPConnection(self.server.target)
            own = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
            connection.request(self.command, self.path, body, own | {"Content-Length": str(len(body))})
            response = connection.getresponse()
            status, headers, content = response.status, dict(response.getheaders()), response.read()
        self.server.seen.append(f"{self.command} {self.path} {status}")
        self.answer(status, headers, content)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = forward  # noqa: N815 (http.server's names)

    def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", headers.get("content-length", str(len(content))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def proxy():
    server = Proxy(os.environ["HF_ENDPOINT"])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


SCRIPT = """
import json, os, sys, urllib.request
import emocap.hub.publishing as hub

hub.WAITS = (0.05, 0.05, 0.05)
jobs, found = json.loads(sys.argv[1]), {}

def ask(path, *content):
    data = json.dumps(content[0]).encode() if content else None
    return json.load(urllib.request.urlopen(urllib.request.Request(os.environ["HF_ENDPOINT"] + path, data)))

for name, (folder, repo_id, fault) in jobs.items():
    found[name] = []
    for now in (fault, None, None):
        ask("/__fail", now)
        try:
            said = hub.publish(folder, repo_id).commit
        except OSError as error:
            said = str(error)
        found[name].append([said, ask("/__seen")])
print("RESULT" + json.dumps(found))
"""


def five_splits(tiny_table_dir: str, folder: str) -> str:
    """A table whose five files nobody has uploaded yet."""
    table = load_table(tiny_table_dir)["train"].select_columns(["image_id", "captions", "labels", "emotions"])
    unique = os.urandom(4).hex()
    DatasetDict(
        {
            f"part{part}": table.select(range(12 * part, 12 * part + 12)).map(
                lambda row: {"image_id": f"{unique}_{row['image_id']}"}, features=table.features
            )
            for part in range(5)
        }
    ).save_to_disk(folder)
    return folder


def test_faults_in_the_middle_of_a_push(proxy, tiny_table_dir, new_name, tmp_path):
    """The third of five uploads fails once; the commit fails twice; the third upload fails for good."""
    repo_ids = {name: new_name(name) for name in ("upload", "commit", "broken")}
    faults = {
        "upload": ["PUT", "/lfs/", 3, 503, 1],
        "commit": ["POST", f"/api/datasets/{repo_ids['commit']}/commit/", 1, 500, 2],
        "broken": ["PUT", "/lfs/", 3, 400, 99],
    }
    jobs = {
        name: [five_splits(tiny_table_dir, str(tmp_path / name)), repo_ids[name], fault]
        for name, fault in faults.items()
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(jobs)],
        env={
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{proxy.server_port}",
            "HF_HOME": str(tmp_path / "hf_home"),
            "HF_HUB_DISABLE_XET": "1",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.rpartition("RESULT")[2])

    def uploads(seen: list[str], status: int) -> int:
        return sum(line.startswith("PUT /lfs/") and line.endswith(f" {status}") for line in seen)

    (commit, seen), (again, _), _ = found["upload"]
    assert len(commit) == 40 and again is None, commit
    assert uploads(seen, 503) == 1 and uploads(seen, 200) == 5, "the one that failed, once more"
    (commit, seen), (again, _), _ = found["commit"]
    assert len(commit) == 40 and again is None, commit
    assert uploads(seen, 200) == 5 and sum("/commit/" in line for line in seen) == 3
    (said, before), (commit, after), (again, _) = found["broken"]
    assert repo_ids["broken"] in said and "Nothing was committed" in said and "Traceback" not in said
    assert uploads(before, 200) == 2 and not [line for line in before if "/commit/" in line]
    assert len(commit) == 40 and again is None
    assert uploads(after, 200) == 3, "those that were not there yet"
    for name, repo_id in repo_ids.items():
        assert len(HfApi().list_repo_commits(repo_id, repo_type="dataset")) == 2, "the repository's first, and ours"
        loaded, table = load_dataset(repo_id), load_table(tmp_path / name)
        assert {split: rows["image_id"][:] for split, rows in loaded.items()} == {
            split: rows["image_id"][:] for split, rows in table.items()
        }
    assert "hf_tester" not in done.stdout + done.stderr
