"""What is wrong with a config, in words: where it stands, which field, what to do."""

from __future__ import annotations

import json
import reprlib
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ._config_sources import FieldPath, Origins, variable_name
from ._plugins import nearest

_SHOULD = "Input should be "
_WANTED = {
    "bool_": "must be true or false",
    "float_": "must be a number",
    "int_": "must be a whole number",
    "finite_number": "must be a finite number",
    "string_type": "must be a text, in quotes",
    "path_": "must be a path, in quotes",
    "tuple_": "must be a list, in brackets",
    "model_": "must be a table of fields",
}
"""What pydantic wants, by how its type of error begins, in the words of a config file."""


def explain(error: ValidationError, model: type[BaseModel], origins: Origins, under: FieldPath = ()) -> str:
    """Return one line for each thing that is wrong; `under` is where `model` stands in the config."""
    lines = [_line(detail, model, origins, under) for detail in error.errors(include_url=False)]
    return "\n".join(lines)


def located(path: FieldPath, what: str, origins: Origins) -> str:
    """Return `what` with the place in front: `n1.toml: transport.max_frame: ...`."""
    origin = origins.of(path)
    return ": ".join(part for part in (origin, _dotted(path), what) if part)


def _line(detail: ErrorDetails, model: type[BaseModel], origins: Origins, under: FieldPath) -> str:
    inner = tuple(detail["loc"])
    path = (*under, *inner)
    if detail["type"] == "extra_forbidden":
        what = _unknown(inner, model, origins, under)
    elif detail["type"] == "missing":
        what = _missing(inner, model)
    elif detail["type"] == "value_error":
        what = str(detail["ctx"]["error"])
    else:
        what = _wanted(detail)
        if "security" not in path:  # what was given may be the secret
            what += f"; it is {reprlib.repr(detail['input'])}"
    return located(path, what, origins)


def _wanted(detail: ErrorDetails) -> str:
    if detail["type"] == "string_too_short" and detail["ctx"]["min_length"] == 1:
        return "must not be empty"

    for words, wanted in _WANTED.items():
        if detail["type"].startswith(words):
            return wanted

    message = detail["msg"]
    return f"must be {message.removeprefix(_SHOULD)}" if message.startswith(_SHOULD) else message


def _unknown(inner: FieldPath, model: type[BaseModel], origins: Origins, under: FieldPath) -> str:
    holder = _model_at(model, inner[:-1])
    known = sorted(holder.model_fields) if holder is not None else []
    meant = nearest(str(inner[-1]), known)
    if meant is None:
        return f"there is no such field; {'known here: ' + ', '.join(known) if known else 'none is known here'}"
    if origins.variable((*under, *inner)) is not None:
        meant = variable_name((*under, *inner[:-1], meant))
    return f"there is no such field; did you mean {meant}?"


def _missing(inner: FieldPath, model: type[BaseModel]) -> str:
    holder, name = _model_at(model, inner[:-1]), str(inner[-1])
    examples = holder.model_fields[name].examples if holder is not None and name in holder.model_fields else None
    example = f"; for example {name} = {json.dumps(examples[0])}" if examples else ""
    return f"is needed and missing{example}"


def _model_at(model: type[BaseModel], path: FieldPath) -> type[BaseModel] | None:
    """Return the model of the table at `path`."""
    here: Any = model
    for step in path:
        field = here.model_fields.get(step)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return None
        here = field.annotation
    found: type[BaseModel] = here
    return found


def _dotted(path: FieldPath) -> str:
    dotted = ""
    for step in path:
        dotted += f"[{step}]" if isinstance(step, int) else f".{step}" if dotted else step
    return dotted
