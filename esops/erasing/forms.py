"""One text in several forms: letters that are composed or not, keys and values that are written in
another way.
"""

from __future__ import annotations

import re
import unicodedata

from esops.json_paths import Step

_HEX = "[0-9a-fA-F]"
_UUID = re.compile(
    rf"[{{(]?({_HEX}{{8}})-?({_HEX}{{4}})-?({_HEX}{{4}})-?({_HEX}{{4}})-?({_HEX}{{12}})[)}}]?"
)


def composed(text: str) -> str:
    """A text with composed letters (NFC): an ö may also be an o with two dots after it."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def plain_key(key: str) -> str:
    """What `customerId`, `CustomerId` and `customer_id` have in common."""
    return "".join(each for each in composed(key).casefold() if each.isalnum())


def alike(step: Step, key: object) -> bool:
    """Whether a path's step means a key that may be written in another way."""
    return step == key or (
        isinstance(step, str) and isinstance(key, str) and plain_key(step) == plain_key(key)
    )


def canonical(value: str) -> str:
    """A value without what makes no other value of it: blanks around it, wide digits, the case of a
    UUID or an address.
    """
    text = unicodedata.normalize("NFKC", value).strip()
    if found := _UUID.fullmatch(text):
        return "".join(found.groups()).lower()
    return text.casefold() if "@" in text else text


def sought(value: str) -> str:
    """What any form of a value has in it, where the text is `seeking`."""
    form = canonical(value)
    return (form[:8] if _UUID.fullmatch(form) else form).casefold()


def seeking(text: str) -> str:
    """A text in which to look for what was `sought`."""
    return (text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold()
