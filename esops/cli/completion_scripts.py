"""`esops --show-completion [SHELL]` and `--install-completion [SHELL]`.

Typer's own options take no shell, and answer for the one that they believe to run in.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from esops.errors import UsageError

SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
_OPTIONS = ("--show-completion", "--install-completion")


def asked(arguments: Sequence[str]) -> tuple[str, str | None] | None:
    """The option of the two that a command line has, and the shell that it names; None where help
    is asked for, which installs nothing.
    """
    if not {"-h", "--help"}.isdisjoint(arguments):
        return None
    for at, each in enumerate(arguments):
        option, equals, shell = each.partition("=")
        if option in _OPTIONS:
            following = arguments[at + 1] if at + 1 < len(arguments) else ""
            named = shell if equals else "" if following.startswith("-") else following
            return option, named or None
    return None


def write(option: str, named: str | None) -> None:
    """Print the script for a shell, or install it; without a name, for the shell that runs esops.

    Raises UsageError where there is none for that shell.
    """
    # Typer has no public name for these.
    from typer._completion_shared import _get_shell_name, get_completion_script, install

    shell = named or _get_shell_name()
    if shell not in SHELLS:
        known = "bash, zsh, fish, powershell or pwsh"
        raise UsageError(
            f"{option}: there is no completion for {shell}"
            if shell
            else f"{option}: the shell that runs esops is not known",
            hint=f"Name one: esops {option} SHELL, with {known}.",
        )
    if option == "--show-completion":
        script = get_completion_script(
            prog_name="esops", complete_var="_ESOPS_COMPLETE", shell=shell
        )
        sys.stdout.write(script + "\n")
        return
    try:
        _, path = install(shell=shell, prog_name="esops", complete_var="_ESOPS_COMPLETE")
    except OSError as error:
        raise UsageError(
            f"{option}: {error.strerror}: {error.filename}",
            hint=f"Print it, and put it where your shell finds it: esops --show-completion {shell}",
        ) from None
    sys.stdout.write(f"completion for {shell} is installed in {path}; start a new shell\n")
