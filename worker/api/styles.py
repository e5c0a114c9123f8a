"""Applies the operator's styles: a request that names a style becomes the full request.

Pure. A style fills in fields that the request leaves open, frames its prompt and adds LoRAs. The client's own values
take precedence, and the request is stored as the client wrote it.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from worker.api.field_names import meant
from worker.api.fingerprint import WHO_ASKS
from worker.api.loras import LORA_FIELDS, nearest
from worker.api.request import MAX_NAME, REQUESTS, Request, parse
from worker.api.validation_errors import short
from worker.core.config import ConfigError, ListedLora
from worker.core.errors import FieldProblem, InvalidInput
from worker.core.types import TaskType

Style = Mapping[str, Any]
"""Fields of a request. `{prompt}` in `prompt`, and `{negative_prompt}` in `negative_prompt`, mark the client's text."""

_CLIENTS = WHO_ASKS | {"task_type", "style", "image_url", "mask_url", "end_image_url"}
"""Fields that only a client may set."""
_SAMPLE: Mapping[str, Any] = {
    "prompt": "a fox",
    "image_url": "https://pictures.example/a.png",
    "mask_url": "https://pictures.example/b.png",
    "upscale_factor": 2,
}
"""The required fields of all tasks."""
_NAMED = 20
"""The number of styles that an error message lists."""


def styled(request: Request, styles: Mapping[str, Style], listed: Mapping[str, ListedLora]) -> Request:
    """Return the request with its style applied; a request without a style is returned unchanged.

    Args:
        request: as the client wrote it.
        styles: the operator's.
        listed: the operator's LoRAs.

    Raises:
        InvalidInput: there is no such style, it is for other tasks, or it conflicts with the request.
    """
    name = request.style
    if name is None:
        return request
    if name not in styles:
        raise InvalidInput([_unknown(name, styles)])
    style = styles[name]
    tasks = tasks_of(style, listed)
    if request.task_type not in tasks:
        raise InvalidInput([FieldProblem("style", "invalid_input.style_task", tasks=", ".join(tasks), got=short(name))])
    try:
        return parse(_applied(style, request.model_dump(mode="json", exclude_unset=True), request))
    except InvalidInput as error:
        raise InvalidInput(
            [
                FieldProblem(one.field, "invalid_input.styled", style=short(name), problem=one.problem)
                for one in error.problems
            ]
        ) from None


def tasks_of(style: Style, listed: Mapping[str, ListedLora]) -> tuple[TaskType, ...]:
    """Return the tasks that have all fields of a style and whose models take its LoRAs."""
    families = {listed[path].family for path in _lora_paths(style) if path in listed}
    return tuple(
        task
        for task, model in REQUESTS.items()
        if set(style) <= set(model.model_fields) and ("sdxl" if task.is_video else "wan") not in families
    )


def check_styles(styles: Mapping[str, Style], listed: Mapping[str, ListedLora]) -> None:
    """Check that each style can be applied to each of its tasks.

    Raises:
        ConfigError: a style is wrong; it names the style and the problem.
    """
    problems = [f"STYLES.{name}{problem}" for name, style in styles.items() for problem in _problems(style, listed)]
    if any(not name.strip() or len(name) > MAX_NAME for name in styles):
        problems.append(f"STYLES: names must have 1 to {MAX_NAME} characters")
    if problems:
        raise ConfigError("; ".join(problems))


def _problems(style: Style, listed: Mapping[str, ListedLora]) -> Iterator[str]:
    if theirs := [field for field in style if field in _CLIENTS]:
        yield f": {', '.join(theirs)} cannot be of a style"
    prompt = style.get("prompt", "{prompt}")
    if not isinstance(prompt, str) or "{prompt}" not in prompt:
        yield ".prompt: must be a text with {prompt} in it"
        return
    if missing := [path for path in _lora_paths(style) if path not in listed]:
        yield f": names {', '.join(map(short, missing))}, which LORAS does not have"
        return
    if strangers := _strangers(style):
        yield f": no task has {strangers}"
        return
    tasks = tasks_of(style, listed)
    if not tasks and not theirs:
        yield ": no task has all of its fields, or its LoRAs are for other models"
    for task in tasks if not theirs else ():
        fields = REQUESTS[task].model_fields
        sample = {field: value for field, value in _SAMPLE.items() if field in fields}
        try:
            found = parse(
                _applied(style, sample | {"task_type": task.value}, parse(sample | {"task_type": task.value}))
            )
        except InvalidInput as error:
            for one in error.problems:
                # Says what is expected, without the value. A problem of several fields names them itself.
                place = f".{one.field}" if one.field else ""
                yield f"{place}: {re.sub(r' [(]got .*[)]$', '', one.problem)}"
            return
        if found.reads_bucket:
            yield ": a picture of a style must have an https:// URL"
            return


def _strangers(style: Style) -> str:
    """List the names in a style that are no field of any task, each with the field probably meant."""
    fields = {task.value: tuple(model.model_fields) for task, model in REQUESTS.items()}
    known = {field for names in fields.values() for field in names}
    hints = {name: meant(name, TaskType.TEXT2IMG, fields)[0] for name in style if name not in known}
    return ", ".join(f"{short(name)} ({hint}?)" if hint else short(name) for name, hint in hints.items())


def _applied(style: Style, given: dict[str, Any], request: Request) -> dict[str, Any]:
    """Return the fields of a request, completed with those of a style that it leaves open."""
    said = {field: value for field, value in style.items() if field not in {*LORA_FIELDS, "prompt", "negative_prompt"}}
    for field, others in request.one_of_these:
        # These fields are alternatives, and the client's takes precedence.
        if field in given:
            said = {name: value for name, value in said.items() if name not in others}
        if any(other in given for other in others):
            said.pop(field, None)
    applied = {**said, **given}
    for field in LORA_FIELDS:
        theirs, own = given.get(field, []), style.get(field)
        if isinstance(own, list):
            named = {entry["path"] for entry in theirs}
            # The client's first: error messages name a LoRA by its index in the client's own list.
            applied[field] = theirs + [one for one in own if _path(one) not in named]
        elif own is not None:
            applied[field] = own  # not a list: `parse` reports it
    applied["prompt"] = style.get("prompt", "{prompt}").replace("{prompt}", given.get("prompt", ""))
    if "negative_prompt" in style:
        frame, own = style["negative_prompt"], given.get("negative_prompt", "")
        framed = isinstance(frame, str) and "{negative_prompt}" in frame
        applied["negative_prompt"] = frame.replace("{negative_prompt}", own) if framed else own or frame
    return applied


def _lora_paths(style: Style) -> list[str]:
    """Return the LoRAs that a style names; `parse` refuses entries without a name."""
    lists = [style.get(field) for field in LORA_FIELDS]
    return [path for entries in lists if isinstance(entries, list) for entry in entries if (path := _path(entry))]


def _path(entry: object) -> str:
    return str(entry.get("path", "")) if isinstance(entry, dict) else ""


def _unknown(name: str, styles: Mapping[str, Style]) -> FieldProblem:
    more = [f"{len(styles) - _NAMED} more"] if len(styles) > _NAMED else []
    choices = ", ".join([*list(styles)[:_NAMED], *more]) or "none"
    if close := nearest(name, styles):
        return FieldProblem("style", "invalid_input.no_style_but_close", close=close, choices=choices, got=short(name))
    return FieldProblem("style", "invalid_input.no_style", choices=choices, got=short(name))
