"""Where archives are kept: a directory or an object store (S3, GCS, Azure) through obstore,
encrypted where that is asked for.

Credentials come from the usual environment of each kind of store. An object is written whole or not
at all, and `if_absent` is
decided by the store itself, so that of two who write the same name one loses.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import obstore
import obstore.exceptions
import obstore.store
import pyrage

from esops.archive_format.schema import Damaged
from esops.errors import EsopsError, Unavailable, UsageError
from esops.settings import ArchiveSettings

ENCRYPTED = ".age"
_CLOUDS = ("AWS", "AZURE", "GOOGLE")


class Taken(EsopsError):
    """An object of that name is there already."""

    exit_code = 4


class Missing(EsopsError):
    """There is no object of that name."""

    exit_code = 1


class StoredObject(NamedTuple):
    """An object: its name below the repository, its size in bytes, and when it was written."""

    name: str
    size: int
    modified: datetime


class Repository:
    """Objects by name below one address."""

    def __init__(self, settings: ArchiveSettings) -> None:
        """Take an address. Nothing is asked yet. Raises UsageError."""
        self.address = settings.repository
        self._recipients = _recipients(settings)
        self._identities = _identities(settings)
        self.folder: Path | None = None
        """The directory, where it is one."""
        try:
            if "://" not in self.address or self.address.startswith("file://"):
                self.folder = Path(self.address.removeprefix("file://"))
                self._store: Any = obstore.store.LocalStore(self.folder, mkdir=True)
            else:
                # Options given here take the place of those in the environment.
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
        """Whether files are encrypted on their way in."""
        return bool(self._recipients)

    @property
    def decrypts(self) -> bool:
        """Whether encrypted files can be read."""
        return bool(self._identities)

    def put(self, name: str, content: bytes | memoryview, *, if_absent: bool = False) -> None:
        """Write an object. Raises Taken where it is there and `if_absent` is asked for."""
        with self._telling(f"write {name}"):
            # Some stores answer a create that they have done with "exists" when it was sent again
            # after a lost answer.
            try:
                obstore.put(
                    self._store, name, bytes(content), mode="create" if if_absent else "overwrite"
                )
            except obstore.exceptions.AlreadyExistsError:
                if self.get(name) != bytes(content):
                    raise Taken(f"{name} is there already in {self.address}") from None
        self._to_disk(name)

    def _to_disk(self, name: str) -> None:
        """A directory's file is safe when it and its names are on the disk, not in the system's
        memory.
        """
        if self.folder is None:
            return
        path = self.folder / name
        for each in (
            path,
            *(parent for parent in path.parents if parent.is_relative_to(self.folder)),
        ):
            with self._telling(f"write {name} to disk"):
                handle = os.open(each, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)

    def get(self, name: str) -> bytes:
        """An object's content. Raises Missing."""
        with self._telling(f"read {name}"):
            return bytes(obstore.get(self._store, name).bytes())

    def has(self, name: str) -> bool:
        """Whether there is an object of that name."""
        try:
            with self._telling(f"look for {name}"):
                obstore.head(self._store, name)
        except Missing:
            return False
        return True

    def entries(self, prefix: str) -> Iterator[StoredObject]:
        """The objects below a prefix (a folder's name), in the order of their names."""
        found: list[StoredObject] = []
        with self._telling(f"list {prefix}"):
            for page in obstore.list(self._store, prefix):
                found += [
                    StoredObject(each["path"], each["size"], each["last_modified"]) for each in page
                ]
        return iter(sorted(found))

    def folders(self, prefix: str) -> list[str]:
        """The names right below a prefix, such as those of all runs, without a look at what is in
        them.
        """
        with self._telling(f"list {prefix}"):
            found = obstore.list_with_delimiter(self._store, prefix)
        return sorted(path.rpartition("/")[2] for path in found["common_prefixes"])

    def delete(self, name: str) -> None:
        """Delete an object; nothing where there is none."""
        with contextlib.suppress(Missing), self._telling(f"delete {name}"):
            obstore.delete(self._store, name)

    # -- encryption (age, by pyrage)

    def seal(self, content: memoryview) -> bytes | memoryview:
        """What is to be stored for a content."""
        return (
            bytes(pyrage.encrypt(bytes(content), self._recipients)) if self._recipients else content
        )

    def open(self, name: str, content: bytes) -> bytes:
        """The content of what was stored.

        Raises Damaged where it cannot be decrypted, UsageError without a key.
        """
        if not name.endswith(ENCRYPTED):
            return content
        if not self._identities:
            raise UsageError(
                f"{name} is encrypted, and no key is named",
                hint="Name one with `identity` or `identity_file`.",
            )
        try:
            return bytes(pyrage.decrypt(content, self._identities))
        except pyrage.DecryptError as error:
            raise Damaged(
                f"{name} cannot be decrypted: it is damaged, or for another key ({error})"
            ) from None

    @contextlib.contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Errors of the store and the system as ours."""
        try:
            yield
        except FileNotFoundError:
            raise Missing(f"there is no {what.rpartition(' ')[2]} in {self.address}") from None
        except (obstore.exceptions.BaseError, OSError) as error:
            if isinstance(error, obstore.exceptions.AlreadyExistsError):
                raise
            hint = (
                "Check the address, the credentials in the environment, and the room that is left."
            )
            raise Unavailable(
                f"the repository {self.address} did not {what}: {_short(error)}", hint=hint
            ) from None


def _short(error: BaseException) -> str:
    """Obstore's messages carry a dump of their source below the first lines."""
    return " ".join(str(error).partition("Debug source")[0].split())[:400]


def _recipients(settings: ArchiveSettings) -> list[Any]:
    try:
        return [pyrage.x25519.Recipient.from_str(text) for text in settings.encrypt_to]
    except pyrage.RecipientError as error:
        raise UsageError(
            f"archives: encrypt_to: this is no age recipient: {error}", hint="It begins with age1."
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
            "archives: identity: this is no age identity", hint="It begins with AGE-SECRET-KEY-1."
        ) from None
