"""The family's collection: what the client sends to a Hub that keeps collections, and what happens on one that does
not."""

import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import HfApi

from emocap.cli import main
from emocap.hub import family as module
from emocap.hub.family import make_collection
from emocap.hub.publishing import Publication

PARTS = [Publication(f"me/x-{kind}", kind, "", {}, [], [], []) for kind in ("model", "dataset")]
SLUG = "me/x-64f9a55bb3115b4f513ec026"


class Collections(BaseHTTPRequestHandler):
    """The endpoints of collections: a title of a namespace is made once, an item is added once, else 409."""

    def do_GET(self) -> None:
        self.answer(200, self.server.collection)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        server.seen.append((self.path, asked, self.headers["Authorization"]))
        if server.failing and re.search(server.failing[0], self.path):
            return self.answer(server.failing[1], {"error": "no collections for you"})
        if self.path == "/api/collections":
            if server.collection:
                return self.answer(409, {"slug": SLUG, "error": "there already"})
            server.collection = {"slug": SLUG, "title": asked["title"], "owner": {"name": asked["namespace"]},
                                 "items": [], "lastUpdated": "2026-01-02T03:04:05.000Z", "position": 0,
                                 "private": asked["private"], "theme": "green", "upvotes": 0}  # fmt: skip
            return self.answer(200, server.collection)
        items = server.collection["items"]
        if asked["item"]["id"] in [item["id"] for item in items]:
            return self.answer(409, {"error": "there already"})
        items.append({"_id": str(len(items)), "position": len(items), **asked["item"]})
        self.answer(200, server.collection)

    def answer(self, status: int, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    """A Hub of collections, which `make_collection` talks to with the unchanged client."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collections)
    server.seen, server.collection, server.failing = [], None, None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(module, "HfApi", lambda: HfApi(endpoint=endpoint, token="hf_some_token"))
    yield server
    server.shutdown()


@pytest.fixture
def said(monkeypatch) -> list[str]:
    lines = []
    monkeypatch.setattr(module.logger, "warning", lines.append)
    return lines


def test_a_collection_of_the_whole_family(server, said):
    address = f"http://127.0.0.1:{server.server_port}/collections/{SLUG}"
    assert make_collection("me", "x", True, PARTS) == address
    requests = [
        ("/api/collections", {"title": "x", "namespace": "me", "private": True}),
        (f"/api/collections/{SLUG}/items", {"item": {"id": "me/x-model", "type": "model"}}),
        (f"/api/collections/{SLUG}/items", {"item": {"id": "me/x-dataset", "type": "dataset"}}),
    ]
    assert [(path, asked) for path, asked, _ in server.seen] == requests
    assert {authorization for *_, authorization in server.seen} == {"Bearer hf_some_token"}
    assert make_collection("me", "x", True, PARTS) == address, "a second time"
    assert [item["id"] for item in server.collection["items"]] == ["me/x-model", "me/x-dataset"] and not said


@pytest.mark.parametrize(
    ("failing", "reason"),
    [
        (("collections$", 404), "it keeps none"),
        (("collections$", 403), "status 403, no collections for you"),
        (("items$", 500), "status 500"),
    ],
)
def test_a_hub_that_makes_none(server, said, failing, reason):
    server.failing = failing
    assert make_collection("me", "x", False, PARTS) is None
    assert len(said) == 1 and said[0].startswith("Everything is published, but ") and reason in said[0]
    assert "hf_some_token" not in said[0] and "Traceback" not in said[0]
    server.failing = None
    assert make_collection("me", "x", False, PARTS).endswith(SLUG) and len(server.collection["items"]) == 2


def test_the_command_says_which(family, said, capsys):
    """On the Hub of this test run, whether or not it keeps collections."""
    prefix = f"c{os.urandom(4).hex()}"
    main(["publish-family", str(family), "--prefix", prefix])
    (printed, told), account = capsys.readouterr(), HfApi().whoami()["name"]
    assert len(re.findall(rf"/{account}/{prefix}-[\w-]+$", printed, re.MULTILINE)) == 5, "everything was published"
    assert HfApi().repo_exists(f"{account}/{prefix}-anb-plus")
    assert ("Collection: http" in told) != (len(said) == 1), (told, said)
