"""Publishing on the Hugging Face Hub: one commit for each finished run, extractor or table, and none when it is there
already."""

import hashlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers.utils import logging

from emocap.cards.public_names import PublicNames, mask_tokens
from emocap.hub.content import Content, check_safe, kind_of, make_content

__all__ = ["Publication", "check_login", "explained", "publish", "send", "short"]

logger = logging.get_logger(__name__)

WAITS = (1.0, 2.0, 4.0)
"""Seconds before each further attempt."""

LOG_IN = "Run `hf auth login`, or set HF_TOKEN to a token that may write."


@dataclass
class Publication:
    """What a publish did, or would do.

    Attributes:
        address: of the repository, or of the pull request.
        sizes: bytes of every file by its path in the repository.
        added: paths that are new or changed.
        deleted: paths that go, being of an earlier publish.
        left_out: what lies in the folder and is not published.
        commit: of what was pushed; None where nothing had changed, or in a dry run.
    """

    repo_id: str
    repo_type: Literal["model", "dataset", "space"]
    address: str
    sizes: dict[str, int]
    added: list[str]
    deleted: list[str]
    left_out: list[str]
    commit: str | None = None

    @property
    def is_empty(self) -> bool:
        return not self.added and not self.deleted

    def describe(self) -> str:
        """A line for each file, what becomes of it first."""
        width = len(f"{max(self.sizes.values()):,}")
        lines = [
            f"{'add' if path in self.added else 'keep':6} {size:>{width},} {path}"
            for path, size in sorted(self.sizes.items())
        ]
        lines += [f"delete {'':{width}} {path}" for path in self.deleted]
        lines += [f"not published: {', '.join(self.left_out)}"] if self.left_out else []
        upload = sum(self.sizes[path] for path in self.added)
        changes = f"{len(self.added)} to add ({upload:,} bytes), {len(self.deleted)} to delete"
        return "\n".join([*lines, f"{len(self.sizes)} files, {sum(self.sizes.values()):,} bytes: {changes}"])


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    dry_run: bool = False,
    token: str | None = None,
    names: PublicNames | None = None,
    license: str | None = None,
) -> Publication:
    """Publishes a finished run, a region extractor, a saved table or the metrics with its card, as one commit.

    Files that are there already are not sent again, and where all are there is no commit. What an earlier publish
    left and this one does not have goes in the same commit. A push that broke off is started again: it goes on with
    the files that the Hub does not have yet.

    Args:
        folder: what a training, data or regions command wrote; "metric" for the metrics.
        repo_id: `name` or `owner/name`.
        private: whether a new repository is private.
        revision: branch to push to, made if absent; main by default.
        create_pr: open a pull request instead, against `revision`; the repository must exist.
        dry_run: say what would change, and change nothing.
        token: of an account; by default the one that is logged in.
        names: what folders of this machine are called in public.
        license: what the card names; by default that of the data, where it is on record.

    Raises:
        FileNotFoundError: the folder holds nothing to publish, or a pull request's repository does not exist.
        ValueError: a pickle, a link that leads outside, a card that the Hub refuses, or a public repository where a
            private one is asked for.
        OSError: the Hub refuses the token, or does not answer.
    """
    folder, api = Path(folder), HfApi(token=token)
    kind = kind_of(folder)
    if kind != "metric":
        check_safe(folder)
    repo_id = repo_id if "/" in repo_id else f"{check_login(repo_id, token)}/{repo_id}"
    beside = folder.resolve().parent if kind == "dataset" else None  # a table's disk has room for its files
    staging = tempfile.TemporaryDirectory(prefix=".publish-", dir=beside, ignore_cleanup_errors=True)
    with explained(repo_id), staging:
        content = make_content(folder, kind, repo_id, names or PublicNames(), Path(staging.name), license)
        options: dict[str, Any] = {
            "private": private,
            "revision": revision,
            "create_pr": create_pr,
            "dry_run": dry_run,
        }
        return send(api, repo_id, content, **options)


def send(
    api: HfApi,
    repo_id: str,
    content: Content,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    dry_run: bool = False,
) -> Publication:
    """Brings a repository to what `content` says it holds; the options are those of `publish`."""
    content.card.validate(content.repo_type)
    if dry_run:
        is_new = revision and not api.revision_exists(repo_id, revision, repo_type=content.repo_type)
        return plan(api, repo_id, content, None if is_new else revision)[0]
    if not create_pr:
        make_repository(api, repo_id, content, private, revision)
    return push(api, repo_id, content, revision, create_pr)


def check_login(repo_id: str, token: str | None = None) -> str:
    """Name of the account that would publish; refuses a token that the Hub does not know.

    Raises:
        PermissionError: nobody is logged in, or the Hub refuses the token.
    """
    with explained(repo_id):
        return HfApi(token=token).whoami()["name"]


def make_repository(api: HfApi, repo_id: str, content: Content, private: bool, revision: str | None) -> None:
    """The repository and the branch, if they are not there yet."""
    if not api.repo_exists(repo_id, repo_type=content.repo_type):
        options: dict[str, Any] = {"space_sdk": content.sdk} if content.sdk else {}
        api.create_repo(repo_id, repo_type=content.repo_type, private=private, exist_ok=True, **options)
    elif private and not api.repo_info(repo_id, repo_type=content.repo_type).private:
        raise ValueError(
            f"'{repo_id}' is there already, and public. Make it private on the Hub, or choose another name."
        )
    if revision and not api.revision_exists(repo_id, revision, repo_type=content.repo_type):
        api.create_branch(repo_id, repo_type=content.repo_type, branch=revision, exist_ok=True)


def push(api: HfApi, repo_id: str, content: Content, revision: str | None, create_pr: bool) -> Publication:
    """Sends what is missing. After a fault that may pass it looks again at what is there, and goes on."""
    for wait in WAITS:
        try:
            return push_once(api, repo_id, content, revision, create_pr)
        except Exception as error:
            if not may_pass(error):
                raise
            logger.warning(f"The Hub did not take it ({short(error)}); once more in {wait:.0f} s.")
        time.sleep(wait)
    return push_once(api, repo_id, content, revision, create_pr)


def push_once(api: HfApi, repo_id: str, content: Content, revision: str | None, create_pr: bool) -> Publication:
    publication, head = plan(api, repo_id, content, revision)
    if publication.is_empty:
        return publication
    if create_pr and (asked := same_pull_request(api, repo_id, content)):
        return asked
    additions = [copy(content.additions[path]) for path in publication.added]  # the client writes into them
    commit = api.create_commit(
        repo_id,
        [*additions, *map(CommitOperationDelete, publication.deleted)],
        commit_message=f"Publish {content.kind}",
        repo_type=content.repo_type,
        revision=revision,
        create_pr=create_pr,
        parent_commit=None if create_pr else head,
    )
    publication.commit = commit.oid
    publication.address = commit.pr_url or publication.address
    return publication


def same_pull_request(api: HfApi, repo_id: str, content: Content) -> Publication | None:
    """The repository's latest pull request, if it holds this content already."""
    refs = api.list_repo_refs(repo_id, repo_type=content.repo_type, include_pull_requests=True).pull_requests or []
    if not refs:
        return None
    latest = max(refs, key=lambda ref: int(ref.ref.rpartition("/")[2])).ref
    publication = plan(api, repo_id, content, latest)[0]
    publication.address = f"{publication.address}/discussions/{latest.rpartition('/')[2]}"
    return publication if publication.is_empty else None


def plan(api: HfApi, repo_id: str, content: Content, revision: str | None) -> tuple[Publication, str | None]:
    """What a publish changes, and the commit that it builds on; a repository that is absent is empty."""
    remote, head = {}, None
    try:
        head = api.repo_info(repo_id, repo_type=content.repo_type, revision=revision).sha
        entries = api.list_repo_tree(repo_id, recursive=True, revision=head, repo_type=content.repo_type)
        remote = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        if error.response.status_code == 401:  # a token that is wrong, too, sees no repository
            api.whoami()
    sizes = {path: addition.upload_info.size for path, addition in content.additions.items()}
    added = [path for path, addition in content.additions.items() if not is_same(addition, remote.get(path))]
    deleted = [
        path
        for path in remote
        if path not in content.files and path.endswith(content.stale) and "/." not in f"/{path}"
    ]
    address = f"{api.endpoint}/{'' if content.repo_type == 'model' else f'{content.repo_type}s/'}{repo_id}"
    publication = Publication(
        repo_id, content.repo_type, address, sizes, sorted(added), sorted(deleted), content.left_out
    )
    return publication, head


def is_same(addition: CommitOperationAdd, entry: RepoFile | None) -> bool:
    """Whether a file of the Hub has the content that is to be added."""
    if entry is None or entry.size != addition.upload_info.size:
        return False
    if entry.lfs is not None:
        return addition.upload_info.sha256.hex() == entry.lfs.sha256
    with addition.as_file() as file:
        return hashlib.sha1(b"blob %d\0" % entry.size + file.read()).hexdigest() == entry.blob_id


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it: the client wraps what goes wrong in an upload."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def may_pass(error: BaseException) -> bool:
    """Whether to try again: the network, an overworked Hub, or a branch that moved meanwhile."""
    for own in chain(error):
        if isinstance(own, HfHubHTTPError):
            return own.response.status_code >= 500 or own.response.status_code in (408, 412, 429)
        if isinstance(own, (HTTPError, ConnectionError, TimeoutError)):  # no answer at all
            return True
    return type(error).__module__.startswith("hf_xet")


def short(error: BaseException) -> str:
    """What the Hub said, in a line without tokens."""
    for own in chain(error):
        if isinstance(own, HfHubHTTPError):
            reason = own.server_message or own.response.reason_phrase
            return mask_tokens(f"status {own.response.status_code}, {' '.join(str(reason).split())[:200]}")
    return mask_tokens(" ".join(f"{type(error).__name__}: {error}".split())[:200])


@contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Turns what the client raises into one sentence without tokens: what the Hub said, and how to mend it."""
    try:
        yield
    except LocalTokenNotFoundError:
        raise PermissionError(f"Nobody is logged in to the Hub. {LOG_IN}") from None
    except (HTTPError, ConnectionError, RuntimeError) as error:  # hf_xet raises Python's own ConnectionError
        found = next((own for own in chain(error) if isinstance(own, HfHubHTTPError)), None)
        said = short(error)
        status = None if found is None else found.response.status_code
        told = {
            401: PermissionError(f"The Hub refused the token ({said}). {LOG_IN}"),
            403: PermissionError(
                f"The Hub does not let this token write to '{repo_id}' ({said}). Choose a name of your own or of an "
                "organisation that you may write to, or use a token with the right to write."
            ),
            404: FileNotFoundError(
                f"There is no '{repo_id}' on the Hub that this token may see ({said}). Check the name; a pull request "
                "needs a repository that exists."
            ),
        }
        if status in told:
            raise told[status] from None
        if found is None and not may_pass(error):
            raise
        raise ConnectionError(
            f"The Hub did not take '{repo_id}' ({said}). Nothing was committed; the same command goes on with the "
            "files that are not there yet."
        ) from None
