"""A Hugging Face Hub on loopback, in memory: what huggingface_hub, transformers and datasets need to publish and load.

Accounts, repositories, branches, commits (regular files and LFS), the pull request that a commit opens, trees,
downloads with ranges, the check of a card. No collections, no Xet.
"""

import atexit
import base64
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

__all__ = ["hub_environment"]

WRITES_UNDER = {"tester": ("tester", "acme"), "reader": ()}
"""Accounts and the names that they may write under; each has the token `hf_ACCOUNT`."""

FRONT_MATTER = re.compile(r"\s*---\r?\n(.*?)\r?\n---", re.DOTALL)


def hub_environment() -> dict[str, str]:
    """What the environment lacks for a Hub to write to: nothing where HF_ENDPOINT names one, else a fake one starts.

    The clients read these variables when they are first imported.
    """
    if os.environ.get("HF_ENDPOINT"):
        return {}
    server, home = ThreadingHTTPServer(("127.0.0.1", 0), Handler), tempfile.mkdtemp(prefix="emocap-hub-")
    server.daemon_threads, server.repos, server.large, server.lock = True, {}, {}, threading.Lock()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    return {"HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_tester", "HF_HOME": home, "HF_HUB_DISABLE_XET": "1"}


class HubError(Exception):
    """An answer that is no success; `code` tells huggingface_hub which exception to raise."""

    def __init__(self, status: int, message: str, code: str = "", **more: str):
        self.status, self.message, self.code, self.more = status, message, code, more


class File:
    """One version of a file; git knows a large one by its pointer."""

    def __init__(self, data: bytes, is_large: bool):
        self.data, self.sha256 = data, hashlib.sha256(data).hexdigest() if is_large else None
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(data)}\n".encode()
        git = pointer if is_large else data
        self.oid = hashlib.sha1(b"blob %d\0" % len(git) + git).hexdigest()

    def entry(self, path: str) -> dict[str, object]:
        large = {"lfs": {"oid": self.sha256, "size": len(self.data), "pointerSize": 0}} if self.sha256 else {}
        return {"type": "file", "oid": self.oid, "size": len(self.data), "path": path, **large}


class Repo:
    """Commits by their sha, each `(files by path, parent, title)`, and where branches and pull requests stand."""

    def __init__(self, kind: str, name: str, is_private: bool):
        self.kind, self.name, self.is_private, self.commits, self.refs = kind, name, is_private, {}, {}
        self.commit("main", {}, None, "initial commit")

    def commit(self, ref: str, files: dict[str, File], parent: str | None, title: str) -> str:
        sha = hashlib.sha1(f"{self.name} {parent} {title} {time.time_ns()}".encode()).hexdigest()
        self.commits[sha], self.refs[ref] = (files, parent, title), sha
        return sha

    def at(self, revision: str) -> str:
        if (sha := self.refs.get(revision, revision)) not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def respond(self) -> None:
        address, self.body = urlsplit(self.path), self.read_body()
        self.query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        try:
            for methods, pattern, answer in ROUTES:
                if self.command in methods and (found := re.fullmatch(pattern, unquote(address.path))):
                    with self.server.lock:
                        return answer(self, **found.groupdict())
            raise HubError(404 if self.account() else 401, "Repository not found", "RepoNotFound")
        except HubError as error:
            self.send({"error": error.message, **error.more}, error.status, Code=error.code, Message=error.message)

    do_GET = do_HEAD = do_POST = do_PUT = respond  # noqa: N815 (http.server's names)

    def read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send(self, content: object = b"", status: int = 200, headers: dict | None = None, **error: str) -> None:
        """Bytes as they are, anything else as JSON."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = {f"X-Error-{name}": value for name, value in error.items() if value} | (headers or {})
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass

    def account(self, is_needed: bool = False) -> str | None:
        account = self.headers.get("Authorization", "").removeprefix("Bearer ").removeprefix("hf_")
        if (account or is_needed) and account not in WRITES_UNDER:
            raise HubError(401, "Invalid username or password.")
        return account or None

    def check_writer(self, name: str) -> None:
        owner = name.partition("/")[0]
        if owner not in WRITES_UNDER[self.account(is_needed=True)]:
            raise HubError(403, f"You don't have the rights to write under the namespace {owner}")

    def repo(self, kind: str | None, name: str, writes: bool = False) -> Repo:
        account, repo = self.account(), self.server.repos.get((kind or "models", name))
        if repo is None or (repo.is_private and name.partition("/")[0] not in WRITES_UNDER.get(account, ())):
            raise HubError(404 if account else 401, "Repository not found", "RepoNotFound")
        if writes:
            self.check_writer(name)
        return repo

    def page(self, repo: Repo) -> str:
        return f"http://{self.headers['Host']}/{'' if repo.kind == 'models' else repo.kind + '/'}{repo.name}"

    def whoami(self) -> None:
        account = self.account(is_needed=True)
        self.send({"type": "user", "id": account, "name": account, "orgs": []})

    def create(self) -> None:
        asked = json.loads(self.body)
        kind = f"{asked.get('type') or 'model'}s"
        name = f"{asked.get('organization') or self.account(is_needed=True)}/{asked['name']}"
        self.check_writer(name)
        if there := self.server.repos.get((kind, name)):
            raise HubError(409, "You already created this repo", url=self.page(there))
        is_private = bool(asked.get("private")) or asked.get("visibility") == "private"
        repo = self.server.repos[kind, name] = Repo(kind, name, is_private)
        self.send({"url": self.page(repo), "name": name, "id": name})

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        repo = self.repo(kind, name)
        sha = repo.at(revision)
        files = repo.commits[sha][0]
        found = FRONT_MATTER.match(files["README.md"].data.decode()) if "README.md" in files else None
        card = yaml.safe_load(found[1]) if found else {}
        own = {name: card.get(name) for name in ("pipeline_tag", "library_name")} if kind == "models" else {}
        siblings = [{"rfilename": path} for path in sorted(files)]
        about = {"id": name, "sha": sha, "private": repo.is_private, "tags": card.get("tags") or [], "cardData": card}
        self.send({**about, "gated": False, "downloads": 0, "likes": 0, "siblings": siblings, **own})

    def list_refs(self, kind: str, name: str) -> None:
        repo = self.repo(kind, name)
        refs = [{"name": ref, "ref": ref, "targetCommit": sha} for ref, sha in repo.refs.items()]
        requests = [row for row in refs if row["ref"].startswith("refs/pr/")]
        branches = [row | {"ref": f"refs/heads/{row['ref']}"} for row in refs if row not in requests]
        self.send({"branches": branches, "tags": [], "converts": [], "pullRequests": requests})

    def list_commits(self, kind: str, name: str, revision: str) -> None:
        repo, found = self.repo(kind, name), []
        sha = repo.at(revision)
        while sha:
            _, parent, title = repo.commits[sha]
            found.append({"id": sha, "title": title, "message": "", "date": "2026-01-02T03:04:05.000Z", "authors": []})
            sha = parent
        self.send(found)

    def make_branch(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name, writes=True)
        repo.refs[revision] = repo.at("main")
        self.send(status=201)

    def entries(self, kind: str, name: str, revision: str) -> dict[str, dict[str, object]]:
        """Files and folders of a revision by path."""
        repo, found = self.repo(kind, name), {}
        for path, file in sorted(repo.commits[repo.at(revision)][0].items()):
            for place in [place.start() for place in re.finditer("/", path)]:
                found[path[:place]] = {"type": "directory", "oid": path[:place], "size": 0, "path": path[:place]}
            found[path] = file.entry(path)
        return found

    def list_tree(self, kind: str, name: str, revision: str, folder: str | None) -> None:
        start, is_recursive = f"{folder}/" if folder else "", self.query.get("recursive", "").lower() in ("true", "1")
        inside = [row for path, row in self.entries(kind, name, revision).items() if path.startswith(start)]
        if folder and not inside:
            raise HubError(404, f"{folder} does not exist", "EntryNotFound")
        self.send([row for row in inside if is_recursive or "/" not in row["path"].removeprefix(start)])

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        found, paths = self.entries(kind, name, revision), parse_qs(self.body.decode())["paths"]
        self.send([found[path] for path in paths if path in found])

    def resolve(self, kind: str | None, name: str, revision: str, path: str) -> None:
        repo = self.repo(kind, name)
        sha = repo.at(revision)
        if (file := repo.commits[sha][0].get(path)) is None:
            raise HubError(404, f"{path} not found", "EntryNotFound")
        headers = {"X-Repo-Commit": sha, "ETag": f'"{file.sha256 or file.oid}"', "Accept-Ranges": "bytes"}
        asked, size = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")), len(file.data)
        if not asked:
            return self.send(file.data, headers=headers)
        start, end = int(asked[1]), min(int(asked[2] or size), size - 1)
        self.send(file.data[start : end + 1], 206, headers | {"Content-Range": f"bytes {start}-{end}/{size}"})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        self.repo(kind, name, writes=True).at(revision)
        files = [
            {"path": own["path"], "uploadMode": "lfs" if b"\0" in base64.b64decode(own["sample"]) else "regular"}
            for own in json.loads(self.body)["files"]
        ]
        self.send({"files": [{**own, "shouldIgnore": False} for own in files]})

    def lfs_batch(self, kind: str | None, name: str) -> None:
        self.repo(kind, name, writes=True)
        found = []
        for own in json.loads(self.body)["objects"]:
            upload = {"actions": {"upload": {"href": f"http://{self.headers['Host']}/lfs/{own['oid']}"}}}
            found.append({**own, "authenticated": True, **({} if own["oid"] in self.server.large else upload)})
        self.send({"transfer": "basic", "objects": found})

    def upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, "sha256 mismatch")
        self.server.large[oid] = self.body
        self.send()

    def commit(self, kind: str, name: str, revision: str) -> None:
        repo, (head, *changes) = self.repo(kind, name, writes=True), map(json.loads, self.body.splitlines())
        parent, opens_request = repo.at(revision), self.query.get("create_pr") == "1"
        if head["value"].get("parentCommit") not in (None, parent):
            raise HubError(412, "The branch was updated since you opened this page. Please refresh and try again.")
        files = dict(repo.commits[parent][0])
        for key, value in ((change["key"], change["value"]) for change in changes):
            if key == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), is_large=False)
            elif key == "lfsFile":
                files[value["path"]] = File(self.server.large[value["oid"]], is_large=True)
            else:
                gone = value["path"].rstrip("/")
                files = {path: file for path, file in files.items() if f"{path}/".partition(f"{gone}/")[0]}
        request = f"refs/pr/{1 + sum(ref.startswith('refs/pr/') for ref in repo.refs)}"
        sha = repo.commit(request if opens_request else revision, files, parent, head["value"]["summary"])
        opened = {"pullRequestUrl": f"{self.page(repo)}/discussions/{request.rpartition('/')[2]}"}
        done = {"success": True, "commitOid": sha, "commitUrl": f"{self.page(repo)}/commit/{sha}"}
        self.send(done | (opened if opens_request else {}))

    def validate_card(self) -> None:
        found = FRONT_MATTER.match(json.loads(self.body)["content"])
        is_valid = isinstance(yaml.safe_load(found[1]) if found else {}, dict)
        errors = [] if is_valid else [{"message": "YAML metadata must be a mapping"}]
        self.send({"errors": errors, "warnings": []}, 200 if is_valid else 400)


NAME = r"(?P<name>[\w.-]+/[\w.-]+?)"
API = rf"/api/(?P<kind>models|datasets|spaces)/{NAME}"
PAGE = rf"/(?:(?P<kind>datasets|spaces)/)?{NAME}"
REVISION = r"(?P<revision>refs/pr/\d+|[^/]+)"
ROUTES = [
    (["GET"], "/api/whoami-v2", Handler.whoami),
    (["POST"], "/api/repos/create", Handler.create),
    (["POST"], "/api/validate-yaml", Handler.validate_card),
    (["GET"], API, Handler.info),
    (["GET"], f"{API}/revision/{REVISION}", Handler.info),
    (["GET"], f"{API}/refs", Handler.list_refs),
    (["GET"], f"{API}/commits/{REVISION}", Handler.list_commits),
    (["GET"], f"{API}/tree/{REVISION}(?:/(?P<folder>.+))?", Handler.list_tree),
    (["POST"], f"{API}/paths-info/{REVISION}", Handler.paths_info),
    (["POST"], f"{API}/branch/{REVISION}", Handler.make_branch),
    (["POST"], f"{API}/preupload/{REVISION}", Handler.preupload),
    (["POST"], f"{API}/commit/{REVISION}", Handler.commit),
    (["POST"], rf"{PAGE}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (["PUT"], r"/lfs/(?P<oid>\w+)", Handler.upload),
    (["GET", "HEAD"], f"{PAGE}/resolve/{REVISION}/(?P<path>.+)", Handler.resolve),
]
