"""Which members may hold personal data, by their names and by their values. A suspicion, no proof:
whoever knows the application decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Literal, NamedTuple

PERSONAL = "x-personal-data"


class PersonalSuspicion(NamedTuple):
    """Why a member is suspected, and of what."""

    by: Literal["name", "values"]
    kind: str

    def as_dict(self) -> dict[str, str]:
        """As a schema has it."""
        return {"suspected": self.by, "kind": self.kind}


_WORDS: Mapping[str, str] = {
    "email": "email mail courriel correo",
    "phone": "phone telephone tel telefon telefono mobile handy fax cellphone portable telefoon",
    "name": "firstname lastname surname forename fullname givenname familyname middlename username "
    "displayname nickname maidenname vorname nachname familienname prenom nom nombre apellido "
    "apellidos nome cognome voornaam achternaam imie nazwisko",
    "address": "address street postcode zip zipcode postal adresse strasse plz anschrift rue calle "
    "direccion indirizzo adres straat",
    "birth": "birth birthday birthdate dob geburtsdatum geburtstag naissance nacimiento nascita "
    "geboortedatum",
    "bank account": "iban bban accountnumber bankaccount kontonummer cardnumber creditcard pan",
    "ip": "ip ipaddress ipv4 ipv6 remoteaddr",
    "identity number": "ssn socialsecurity passport passportnumber nationalid taxid steuernummer "
    "steuerid ausweisnummer ahv nir dni nif bsn cpf pesel insee",
    "person": "gender sex geschlecht religion ethnicity nationality",
    "location": "latitude longitude geolocation",
}
_PERSONS = (
    "customer client user person contact employee patient member driver recipient sender owner "
    "author guest student teacher subscriber applicant buyer seller passenger resident citizen "
    "kunde benutzer mitarbeiter patientin empfaenger cliente usuario utilisateur employe"
)
_NAMES = frozenset({"name", "naam"})
_LAST_WORDS = (
    "id ids key keys code codes uuid guid sku ean isbn gtin upc slug ref reference number no nr "
    "nummer token hash url uri path title titel name description label comment text note notes "
    "message reason"
)
"""Last words of names whose values are ids, or free text: the next value may be a new one."""
_PIECES = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_ACCENTS = str.maketrans("äöüéèêëàâáíìîóòôúùûñç", "aoueeeeaaaiiiooouuunc")


@cache
def _kinds() -> dict[str, str]:
    return {word: kind for kind, words in _WORDS.items() for word in words.split()}


def suspected_by_name(name: str, above: str = "") -> PersonalSuspicion | None:
    """What the name of a member says; `above` is the name of the object that it is in."""
    words = _words(name)
    for part in _runs(words):
        kind = _kinds().get(part)
        if kind is not None:
            # What an IP address and an email address are is in the word before "address".
            special = {"ip", "email", "mail"} & set(words) if kind == "address" else set()
            if special:
                kind = "ip" if "ip" in special else "email"
            return PersonalSuspicion("name", kind)
    # "name" alone may be that of a product.
    if _NAMES & set(words) and {*words, *_words(above)} & {*_PERSONS.split()}:
        return PersonalSuspicion("name", "name")
    return None


def names_one_of_many(name: str) -> bool:
    """Whether the name of a member says that its values have no end, so that few of them are no
    enum: `productId`, `currency_code`, `title`.
    """
    words = _words(name)
    # "ID", "IDs"; "sku2" is a sku.
    words = [each for each in words if not each.isdigit()]
    return bool(words) and (words[-1] in _LAST_WORDS.split() or name.endswith(("ID", "IDs")))


def _words(name: str) -> list[str]:
    """The words of a name in camelCase, PascalCase, snake_case or kebab-case, without accents."""
    plain = name.replace("ß", "ss").translate(_ACCENTS)
    return [each.lower() for each in _PIECES.findall(plain)]


def _runs(words: list[str]) -> Iterator[str]:
    """One, two or three words in a row as one word, the longest first."""
    for length in (3, 2, 1):
        for at in range(len(words) - length + 1):
            yield "".join(words[at : at + length])
