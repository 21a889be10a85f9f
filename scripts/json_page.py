"""The tables of docs/json.md, from the schemas beside it.

python scripts/json_page.py             # print them
python scripts/json_page.py --write     # and put them into the page, between its marks
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "json.md"
_BETWEEN = re.compile(r"(?<=<!-- documents -->\n).*(?=<!-- end -->)", re.DOTALL)

Row = tuple[str, str, str]


def documents() -> dict[str, dict[str, Any]]:
    """The schemas by the names of their files, the general one first."""
    files = sorted((DOCS / "schemas").glob("*.json"), key=lambda path: (path.stem != "error-1", path.stem))
    return {path.name: json.loads(path.read_text()) for path in files}


def fields(schema: dict[str, Any], path: str = "") -> Iterator[Row]:
    """Name, type and description of each field of an object, and of what is in it."""
    for name, field in schema.get("properties", {}).items():
        optional = "" if name in schema["required"] else ", optional"
        yield from _field(f"{path}{name}", field, optional)


def _field(path: str, field: dict[str, Any], optional: str) -> Iterator[Row]:
    yield path, _type(field) + optional, field["description"]
    yield from _inside(path, field)


def _inside(path: str, field: dict[str, Any]) -> Iterator[Row]:
    yield from fields(field, f"{path}.")
    if isinstance(values := field.get("additionalProperties"), dict):
        yield from _inside(f"{path}.NAME", values)
    if "items" in field:
        yield from _inside(f"{path}[]", field["items"])
    for one in field.get("oneOf", ()):
        yield f"{path}", f"`{one['properties']['edit']['const']}`", one["description"]
        yield from fields(one, f"{path}.")


def _type(field: dict[str, Any]) -> str:
    if "const" in field:
        return f"`{field['const']}`"
    if "$ref" in field:
        return f"[object](schemas/{field['$ref']})"
    if "anyOf" in field:
        return " or ".join(map(_type, field["anyOf"]))
    kinds = field.get("type", "any")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if "enum" in field:
        return ", ".join("null" if value is None else f"`{value}`" for value in field["enum"])
    return " or ".join(f"array of {_elements(field)}" if kind == "array" else kind for kind in kinds)


def _elements(field: dict[str, Any]) -> str:
    kinds = field["items"].get("type", "object")
    return kinds if isinstance(kinds, str) else " or ".join(kinds)


def tables() -> str:
    """The part of the page between its marks."""
    lines = []
    for name, schema in documents().items():
        lines += [f"## {schema['title']}", "", f"{schema['description']} [Schema](schemas/{name}).", ""]
        lines += ["| field | type | |", "|---|---|---|"]
        lines += [
            f"| `{field}` | {kind} | {about.replace('|', chr(92) + '|')} |" for field, kind, about in fields(schema)
        ]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    made = tables()
    if parser.parse_args().write:
        PAGE.write_text(_BETWEEN.sub(lambda _: made, PAGE.read_text()))
    print(made)


if __name__ == "__main__":
    main()
