"""Where archives are kept: a directory or an object store (S3, GCS, Azure), optionally encrypted.

Object stores are reached through obstore, which takes credentials from the usual environment of
each. An object is written completely or not at all. `if_absent` is decided by the store itself, so
that of two processes that create the same name one is refused.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import obstore
import obstore.exceptions
import obstore.store
import pyrage

from esops.archive_format.schema import Damaged
from esops.errors import AbsentArchive, EsopsError, Unavailable, UsageError
from esops.settings import ArchiveSettings

ENCRYPTED = ".age"
_CLOUDS = ("AWS", "AZURE", "GOOGLE")


class Taken(EsopsError):
    """An object of that name exists already."""

    exit_code = 4


class Missing(EsopsError):
    """There is no object of that name."""

    exit_code = 1


class StoredObject(NamedTuple):
    """One object: its name below the repository, its size in bytes, and when it was written."""

    name: str
    size: int
    modified: datetime
    tag: str = ""
    """Another one for each content of an object (ETag or version), where the store has such."""


class Repository:
    """Objects by name below one address."""

    def __init__(self, settings: ArchiveSettings, *, make: bool = False) -> None:
        """Does not reach an object store yet; `make`: create a folder that does not exist.

        Raises UsageError for an address or a key that is wrong, and AbsentArchive.
        """
        self.address = settings.repository
        self._recipients = _recipients(settings)
        self._identities = _identities(settings)
        self.folder: Path | None = None
        """The directory, if the repository is one."""
        try:
            if "://" not in self.address or self.address.startswith("file://"):
                self.folder = Path(self.address.removeprefix("file://"))
                # A folder that is not mounted must not pass for an empty archive.
                if not make and not self.folder.exists():
                    raise AbsentArchive(
                        f"the folder of the archive does not exist: {self.folder}",
                        hint="Mount it, or correct the address. If nothing was archived yet, the "
                        "first `esops archive run` creates it.",
                    )
                self._store: Any = obstore.store.LocalStore(self.folder, mkdir=True)
            else:
                # obstore ignores the environment's ALLOW_HTTP once any client option is given.
                plain = any(
                    os.environ.get(f"{cloud}_ALLOW_HTTP", "").lower() in ("1", "true")
                    for cloud in _CLOUDS
                )
                self._store = obstore.store.from_url(
                    self.address,
                    client_options={
                        "timeout": settings.timeout,
                        "connect_timeout": "10s",
                        "allow_http": plain,
                    },
                    retry_config={"max_retries": 3, "retry_timeout": 4 * settings.timeout},
                )
        except (obstore.exceptions.BaseError, OSError, ValueError) as error:
            raise UsageError(
                f"the repository {self.address} cannot be opened: {_short(error)}"
            ) from None

    @property
    def encrypts(self) -> bool:
        """Whether new files are encrypted."""
        return bool(self._recipients)

    @property
    def decrypts(self) -> bool:
        """Whether a key is configured that decrypts files."""
        return bool(self._identities)

    def put(self, name: str, content: bytes | memoryview, *, if_absent: bool = False) -> None:
        """Write an object.

        Raises Taken if `if_absent` is set and it exists with other content, Unavailable.
        """
        with self._translated(f"write {name}"):
            # When the response to a create is lost, the retry is answered with "exists": only
            # other content means that somebody else wrote it.
            try:
                obstore.put(
                    self._store, name, bytes(content), mode="create" if if_absent else "overwrite"
                )
            except obstore.exceptions.AlreadyExistsError:
                if self.get(name) != bytes(content):
                    raise Taken(f"{name} exists already in {self.address}") from None
        self._to_disk(name)

    def _to_disk(self, name: str) -> None:
        """Flush a file and the directories above it to disk.

        A file survives a power cut only once its own name is on disk as well.
        """
        if self.folder is None:
            return
        path = self.folder / name
        for each in (  # the file first: a name on disk without content would be worse
            path,
            *(parent for parent in path.parents if parent.is_relative_to(self.folder)),
        ):
            with self._translated(f"write {name} to disk"):
                handle = os.open(each, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)

    def get(self, name: str) -> bytes:
        """An object's content. Raises Missing, Unavailable."""
        with self._translated(f"read {name}"):
            return bytes(obstore.get(self._store, name).bytes())

    def look(self, name: str) -> StoredObject:
        """An object without its content. Raises Missing, Unavailable."""
        with self._translated(f"look for {name}"):
            return _stored(obstore.head(self._store, name))

    def has(self, name: str) -> bool:
        """Whether an object of that name exists."""
        try:
            self.look(name)
        except Missing:
            return False
        return True

    def entries(self, prefix: str) -> Iterator[StoredObject]:
        """The objects below a prefix (a folder's name), in the order of their names."""
        found: list[StoredObject] = []
        with self._translated(f"list {prefix}"):
            for page in obstore.list(self._store, prefix):
                found += map(_stored, page)
        return iter(sorted(found))

    def folders(self, prefix: str) -> list[str]:
        """The names of the folders directly below a prefix, without listing their contents."""
        with self._translated(f"list {prefix}"):
            found = obstore.list_with_delimiter(self._store, prefix)
        return sorted(path.rpartition("/")[2] for path in found["common_prefixes"])

    def delete(self, name: str) -> None:
        """Delete an object, if it exists."""
        with contextlib.suppress(Missing), self._translated(f"delete {name}"):
            obstore.delete(self._store, name)

    # -- encryption (age, by pyrage)

    def seal(self, content: memoryview) -> bytes | memoryview:
        """The bytes to store for some content: encrypted, if the archive is."""
        return (
            bytes(pyrage.encrypt(bytes(content), self._recipients)) if self._recipients else content
        )

    def open(self, name: str, content: bytes) -> bytes:
        """Decrypt what was stored under a name.

        Raises Damaged if it cannot be decrypted, UsageError if no key is configured.
        """
        if not name.endswith(ENCRYPTED):
            return content
        if not self._identities:
            raise UsageError(
                f"{name} is encrypted, and no key is configured",
                hint="Set `identity` or `identity_file` in the archive's section of esops.toml.",
            )
        try:
            return bytes(pyrage.decrypt(content, self._identities))
        except pyrage.DecryptError as error:
            raise Damaged(
                f"{name} cannot be decrypted: it is damaged, or was encrypted for another key "
                f"({error})"
            ) from None

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """Turn errors of the store and the system into ours; `what` ends with the object's name."""
        try:
            yield
        except FileNotFoundError:
            raise Missing(f"{what.rpartition(' ')[2]} does not exist in {self.address}") from None
        except (obstore.exceptions.BaseError, OSError) as error:
            if isinstance(error, obstore.exceptions.AlreadyExistsError):
                raise  # `put` decides what this means
            hint = "Check the address, the credentials in the environment, and the free space."
            raise Unavailable(
                f"cannot {what} in the repository {self.address}: {_short(error)}", hint=hint
            ) from None


def _stored(found: Mapping[str, Any]) -> StoredObject:
    tag = found.get("version") or found.get("e_tag") or ""
    return StoredObject(found["path"], found["size"], found["last_modified"], tag)


def _short(error: BaseException) -> str:
    """The first lines of a message; obstore appends a dump of the error's source."""
    return " ".join(str(error).partition("Debug source")[0].split())[:400]


def _recipients(settings: ArchiveSettings) -> list[Any]:
    try:
        return [pyrage.x25519.Recipient.from_str(text) for text in settings.encrypt_to]
    except pyrage.RecipientError as error:
        raise UsageError(
            f"archives: encrypt_to is not an age recipient: {error}",
            hint="A recipient begins with age1.",
        ) from None


def _identities(settings: ArchiveSettings) -> list[Any]:
    texts = [settings.identity] if settings.identity else []
    if settings.identity_file is not None:
        path = settings.identity_file
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UsageError(
                f"archives: identity_file: {path} cannot be read: {error.strerror}"
            ) from None
        texts += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    try:
        return [pyrage.x25519.Identity.from_str(text) for text in texts]
    except pyrage.IdentityError:
        raise UsageError(
            "archives: identity is not an age identity",
            hint="An identity begins with AGE-SECRET-KEY-1.",
        ) from None
