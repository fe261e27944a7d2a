"""`[erase.NAME]`: which values are personal data, and what takes their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from esops.json_paths import JsonPath, parse_path
from esops.settings.base import Settings

_LEAST_SECRET = 16
"""Characters: a shorter key could be tried out."""


class Mask(NamedTuple):
    """What takes a value's place: null, a keyed hash of it, or a fixed text."""

    kind: str
    """null, hash or text."""
    text: str = ""


def _mask(value: object) -> object:
    if value in ("null", "hash"):
        return Mask(str(value))
    if isinstance(value, str) and value.startswith("text:"):
        return Mask("text", value.removeprefix("text:"))
    raise ValueError('a mask is "null", "hash" or "text:…"')


def _path(text: str) -> str:
    parse_path(text)
    return text


Path = Annotated[str, AfterValidator(_path)]


class EraseSettings(Settings):
    """`[erase.NAME]`: a rule for the personal data of one kind of person."""

    store: str | None = None
    where: Path | None = None
    """The path of `--where` that this rule is for. Default: any path, and `--stream`."""
    types: tuple[str, ...] = ()
    """The types of events that hold such data. Default: all."""
    whole_streams: bool = False
    """Whether all events of a stream belong to the person where one of them does."""
    mask: Mapping[Path, Annotated[Mask, BeforeValidator(_mask)]] = Field(min_length=1)
    """What takes the place of the value at each path."""
    shared: tuple[Path, ...] = ()
    """Paths whose values other people have, too, such as a city: these are not looked for
    elsewhere.
    """
    tables: tuple[str, ...] = ()
    """Other tables of the store's database that are read back, such as an application's own."""
    secret: SecretStr | None = Field(default=None, repr=False)
    """The key of the hashes, usually `${VARIABLE}`."""

    @model_validator(mode="after")
    def _has_its_key(self) -> EraseSettings:
        hashes = any(each.kind == "hash" for each in self.mask.values())
        given = self.secret.get_secret_value() if self.secret is not None else ""
        if hashes and len(given) < _LEAST_SECRET:
            raise ValueError(
                f'a mask "hash" needs `secret`, of at least {_LEAST_SECRET} characters: without a '
                "key, names can be found again by trying"
            )
        return self

    @property
    def masks(self) -> list[tuple[JsonPath, Mask]]:
        """The masks with their paths read."""
        return [(parse_path(path), mask) for path, mask in self.mask.items()]
