"""What a section of esops.toml says of a Postgres database."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from esops.settings.addresses import Dsn, PublishedAddress
from esops.settings.base import Publications, Settings


class DatabaseSettings(Settings):
    """Its address, and whether esops may make tables there that are published."""

    dsn: Dsn = Field(repr=False)
    publications: Publications = "refused"

    @model_validator(mode="after")
    def _address_knows(self) -> Self:
        if self.publications == "allowed":
            self.__dict__["dsn"] = PublishedAddress(self.dsn)
        return self
