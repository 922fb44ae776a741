"""Settings as a page to read: each with its value, what is allowed, and what it does."""

import json
import textwrap
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from catalog_batch.config import Settings
from catalog_batch.errors import ConfigError

WIDTH = 100
_BOUNDS = {
    annotated_types.Ge: ("ge", ">="),
    annotated_types.Gt: ("gt", ">"),
    annotated_types.Le: ("le", "<="),
    annotated_types.Lt: ("lt", "<"),
}


def settings_page(settings: Settings, section: str = "") -> str:
    """Return every setting of a section, or of all, as a text like a manual's page.

    Raises:
        ConfigError: For a section that there is not.
    """
    entries = [
        _entry(name, value, field)
        for name, value, field in _fields(settings)
        if not section or name.split(".")[0] == section
    ]
    if not entries:
        sections = ", ".join(Settings.model_fields)
        raise ConfigError(f"There are no settings called {section!r}. There are: {sections}.")
    return "\n\n".join(entries)


def _fields(settings: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, FieldInfo]]:
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value, field


def _entry(name: str, value: Any, field: FieldInfo) -> str:
    default = "" if value == field.default else f"; default {_as_toml(field.default)}"
    allowed = _allowed(field)
    # What is excluded from every report may hold a password.
    head = f"{name} = {_as_toml('***' if field.exclude and value else value)}"
    notes = f"  ({allowed}{default})" if allowed else f"  ({default[2:]})" if default else ""
    meaning = " ".join((field.description or "").replace("``", "").split())
    text = textwrap.fill(meaning, WIDTH, initial_indent="    ", subsequent_indent="    ")
    return f"{head}{notes}\n{text}"


def _allowed(field: FieldInfo) -> str:
    """Say which values a setting takes, where its kind alone does not."""
    if get_origin(field.annotation) is Literal:
        return " | ".join(map(str, get_args(field.annotation)))
    bounds = [
        f"{sign} {getattr(found, name):g}"
        for found in field.metadata
        for kind, (name, sign) in _BOUNDS.items()
        if isinstance(found, kind)
    ]
    return ", ".join(bounds)


def _as_toml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
