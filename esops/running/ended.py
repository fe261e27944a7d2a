"""How the processes that follow versions ended, one by one and in all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from esops.errors import EsopsError
from esops.wording import count


@dataclass(frozen=True, slots=True)
class Followed:
    """How one version's process ended.

    `exit_code` is 0 where it did its work, and where it left the version alone (`left`).
    """

    projection: str
    version: int
    exit_code: int
    left: bool = False


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """How catching up ended, in numbers of versions."""

    done: int
    left_alone: int
    failed: int

    def __str__(self) -> str:
        parts = [f"{count(self.done, 'version')} caught up"]
        parts += [f"{self.left_alone} left alone"] if self.left_alone else []
        parts += [f"{self.failed} did not"] if self.failed else []
        return ", ".join(parts)

    @classmethod
    def of(cls, ended: Sequence[Followed]) -> CaughtUp:
        """From how each process ended."""
        failed = sum(each.exit_code != 0 for each in ended)
        left = sum(each.left for each in ended)
        return cls(len(ended) - failed - left, left, failed)


def unsaid(code: int) -> EsopsError:
    """Why a process ended that did not say so itself."""
    if code < 0:
        return EsopsError(f"its process was ended by signal {-code}")
    return EsopsError(
        "its process ended without a word of why, as if the projection's code had ended it",
        hint="Look for os._exit and the like in the code and in what it imports.",
    )
