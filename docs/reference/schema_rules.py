"""Write the table of changes between schemas in compare-schemas.md from the code.

Run `python docs/reference/schema_rules.py`; a test holds the table up to date.
"""

from __future__ import annotations

from pathlib import Path

from esops.schema.rules import RULES

PAGE = Path(__file__).parent.with_name("how-to") / "compare-schemas.md"
BEGIN, END = "<!-- rules: written by schema_rules.py -->", "<!-- end of rules -->"


def table() -> str:
    """The table in Markdown."""
    lines = ["| kind | what changed | breaks | what to do |", "|---|---|---|---|"]
    lines += [
        f"| `{kind}` | {rule.what} | {rule.breaks} | {rule.advice} |"
        for kind, rule in RULES.items()
    ]
    return "\n".join(lines)


def written(page: str) -> str:
    """The page with the table as it should be."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
