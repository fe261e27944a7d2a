"""Schema files as a git repository had them at a revision, read without a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from esops.errors import Unavailable, UsageError

_SECONDS = 60
_FETCH = (
    "In CI, the repository has to be there with its history: `git fetch origin main` (GitHub: "
    "fetch-depth: 0), and the revision is then origin/main."
)


def files_at(revision: str, path: str, folder: Path) -> dict[str, bytes]:
    """The .json files below a path of the repository around `folder`, by their paths below it.

    `path` begins at the root of the repository, or at `folder` if it begins with `./`, as git has
    it. Raises UsageError where there is no such repository, revision or folder in it.
    """
    commit = _commit(revision, folder)
    place = _from_root(path, folder)
    tree = f"{commit}:{place}"
    try:
        kind = _git(["cat-file", "-t", tree], folder).decode().strip()
    except _GitFailed:
        raise UsageError(
            f"revision {revision} has no folder {place or '.'}",
            hint="The path begins at the root of the repository; begin it with ./ for this folder.",
        ) from None
    if kind != "tree":
        raise UsageError(f"{place} is no folder in revision {revision}")
    listed = _git(["ls-tree", "-r", "-z", "--full-tree", tree], folder)
    return _contents(dict(_blobs(listed, f"{revision}:{place}")), folder)


def revisions_in(first: str, last: str, path: str, folder: Path) -> list[str]:
    """The revisions of a range that changed a path, oldest first, its ends included. Raises
    UsageError as `files_at` does, and where the range does not lead from one to the other.
    """
    ends = [_commit(each, folder) for each in (first, last)]
    if _git(["merge-base", *ends], folder, fails=b"").decode().strip() != ends[0]:
        raise UsageError(
            f"{first} is no ancestor of {last}", hint=f"Is it {last}..{first}? {_FETCH}"
        )
    place = _from_root(path, folder)
    between = _git(
        ["rev-list", "--reverse", "--topo-order", f"{ends[0]}..{ends[1]}", "--", f":/{place}"],
        folder,
    )
    tags = _tags(folder)
    commits = between.decode().split()
    names = [tags.get(each) or _short(each, folder) for each in commits]
    if commits and commits[-1] == ends[1]:
        names[-1] = last
    return [first, *names]


def top_of(folder: Path) -> Path:
    """The root of the repository around a folder. Raises UsageError where there is none."""
    try:
        return Path(_git(["rev-parse", "--show-toplevel"], folder).decode().strip())
    except _GitFailed as error:
        raise UsageError(f"{folder} is in no git repository ({error.message})") from None


class _GitFailed(Unavailable):
    """git ended with an error."""


def _commit(revision: str, folder: Path) -> str:
    if not revision:
        raise UsageError("no revision is named", hint="Write it like git:main:schemas.")
    top_of(folder)
    name = f"{revision}^{{commit}}"
    try:
        return (
            _git(["rev-parse", "--verify", "--quiet", "--end-of-options", name], folder)
            .decode()
            .strip()
        )
    except _GitFailed:
        raise UsageError(f"this repository has no revision {revision}", hint=_FETCH) from None


def _from_root(path: str, folder: Path) -> str:
    """A path from the root of the repository, without `.` and `..`."""
    whole = path
    if path.startswith(("./", "../")) or path in (".", ".."):
        prefix = _git(["rev-parse", "--show-prefix"], folder).decode().rstrip("\n")
        whole = prefix + path
    clean = os.path.normpath(whole.strip("/") or ".")
    if clean.startswith(".."):
        raise UsageError(f"{path} is outside of the repository")
    return "" if clean == "." else PurePosixPath(clean).as_posix()


def _tags(folder: Path) -> dict[str, str]:
    """A tag for each commit that has one."""
    form = "%(if)%(*objectname)%(then)%(*objectname)%(else)%(objectname)%(end) %(refname:short)"
    listed = _git(
        ["for-each-ref", "--sort=-version:refname", f"--format={form}", "refs/tags"], folder
    )
    return dict(line.split(" ", 1) for line in listed.decode(errors="replace").splitlines())


def _short(commit: str, folder: Path) -> str:
    return _git(["rev-parse", "--short", commit], folder).decode().strip()


def _blobs(listed: bytes, where: str) -> Iterator[tuple[str, str]]:
    """The .json files of a listing, each with the id of its content."""
    for line in filter(None, listed.split(b"\0")):
        head, _, name = line.partition(b"\t")
        mode, kind, blob = head.decode().split()
        path = os.fsdecode(name)
        hidden = any(part.startswith(".") for part in path.split("/"))
        if kind != "blob" or hidden or not path.endswith(".json"):
            continue
        if mode == "120000":
            raise UsageError(
                f"{where}/{path} is a symbolic link, which is not followed in a revision",
                hint="Put the file itself into the repository.",
            )
        yield path, blob


def _contents(blobs: dict[str, str], folder: Path) -> dict[str, bytes]:
    if not blobs:
        return {}
    wanted = "".join(f"{blob}\n" for blob in blobs.values()).encode()
    answer = _git(["cat-file", "--batch"], folder, wanted)
    found = {}
    at = 0
    for path in blobs:
        end = answer.index(b"\n", at)
        head = answer[at:end].split()
        if len(head) < 3:
            raise Unavailable(
                f"git does not have the content of {path}",
                hint="This is a partial clone. Fetch all of it.",
            )
        size = int(head[2])
        found[path] = answer[end + 1 : end + 1 + size]
        at = end + 1 + size + 1
    return found


def _git(
    arguments: Sequence[str], folder: Path, input_: bytes = b"", *, fails: bytes | None = None
) -> bytes:
    """What git answers; `fails` where it ends with an error, if that is given."""
    program = shutil.which("git")
    if program is None:
        raise UsageError(
            "there is no program git in PATH",
            hint="Install it, or compare directories.",
        )
    try:
        done = subprocess.run(  # noqa: S603 - git itself, without a shell
            [program, "-C", str(folder), *arguments],
            input=input_,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            env={
                **os.environ,
                "LC_ALL": "C",
                "GIT_TERMINAL_PROMPT": "0",
                "GIT_OPTIONAL_LOCKS": "0",
            },
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"git {arguments[0]} did not answer in {_SECONDS} s") from None
    if done.returncode:
        if fails is not None:
            return fails
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise _GitFailed(f"git: {said[0].removeprefix('fatal: ')}" if said else "git failed")
    return done.stdout
