"""The documents match the repository and the contract, in both directions.

The tests read the tables: a row is about the names in code marks in its first cell.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.memory_world import World
from worker.api.params import PRIVATE, ImageParams, ModelDefaults, VideoParams
from worker.api.request import REQUESTS, PictureRequest, envelope, parse
from worker.api.resolve import resolve
from worker.api.response import failure, manifest, success
from worker.core.config import REPOSITORY, Settings
from worker.core.errors import ERROR_CODES, Cancelled, Internal, JobError
from worker.core.types import Owner, Scheduler, TaskType, Usage
from worker.delivery.delivered import Delivered
from worker.document import schema
from worker.document.schema import ClaimRequest
from worker.document.transitions import WORKER_LOST
from worker.job.actions import answer
from worker.media.artifact import Artifact

DOCUMENTS = [REPOSITORY / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md")]
DOCUMENTS += sorted((REPOSITORY / "docs").glob("*.md"))
Row = tuple[list[str], list[str]]
"""The names that a row of a table is about, and its cells."""


def read(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def headings(text: str) -> Iterator[tuple[int, str, int]]:
    """Yield (level, title, where it ends) of each heading outside code."""
    for match in re.finditer(r"^```.*?^```|^(#{1,4}) ([^\n]+)$", text, re.MULTILINE | re.DOTALL):
        if match[1]:
            yield len(match[1]), match[2], match.end()


def anchor(title: str) -> str:
    """Return a heading's anchor: https://docs.github.com/en/get-started/writing-on-github (section links)."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def rows(name: str, title: str) -> list[Row]:
    """Return the rows of the tables in one section of a document, its subsections included."""
    text = read(name)
    found = list(headings(text))
    place = next(index for index, heading in enumerate(found) if heading[1] == title)
    level, _, start = found[place]
    ends = [end for other, _, end in found[place + 1 :] if other <= level]
    lines = text[start : ends[0] if ends else None].splitlines()
    table = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    return [(re.findall(r"`([^`]+)`", cells[0]), cells) for cells in table if "`" in cells[0]]


def names(name: str, title: str) -> set[str]:
    return {one for row, _ in rows(name, title) for one in row}


# --- The repository -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_and_section_that_a_document_links_to_exists(document: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", document.read_text(encoding="utf-8")):
        path, _, section = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        if section:
            assert section in {anchor(title) for _, title, _ in headings(target.read_text(encoding="utf-8"))}, link


def test_the_readme_links_to_every_document() -> None:
    linked = set(re.findall(r"\]\(([^)#]+\.md)\)", read("README.md")))
    assert {path.relative_to(REPOSITORY).as_posix() for path in DOCUMENTS} - {"README.md"} <= linked


def test_the_commands_that_documents_name_are_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^(\w+):", read("Makefile"), re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"(?:^|`)make (\w+)", document.read_text(encoding="utf-8"), re.MULTILINE))
        assert named <= targets, document.name
    shown = set(re.findall(r"(?:^|`)make (\w+)", read("README.md"), re.MULTILINE))
    assert {"demo", "test", "check", "unit", "serve", "cloud"} <= shown


def test_the_readme_says_where_a_change_goes() -> None:
    """Its tree has every top-level entry and every package of the worker, and nothing else."""
    block = read("README.md").split("## Where a change goes")[1].split("```")[1]
    top, inside = set[str](), set[str]()
    for line in block.strip().splitlines():
        # Several names may share a line; their purpose follows after wider space.
        (inside if line.startswith("  ") else top).update(_names_in(line))
    packages = {path.parent.name + "/" for path in (REPOSITORY / "worker").glob("*/__init__.py")}
    modules = {path.name for path in (REPOSITORY / "worker").glob("*.py")} - {"__init__.py"}
    assert inside == packages | modules | {"demo_models/"}
    assert all((REPOSITORY / name).exists() for name in top)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout, so nobody can say what is in the repository")
    tracked = {path.partition("/")[0] + "/" * ("/" in path) for path in listed.stdout.split("\0") if path}
    assert top == tracked


def _names_in(line: str) -> list[str]:
    found: list[str] = []
    for word in re.split(r"\s+", line.strip()):
        if not re.fullmatch(r"\.?\w[\w.-]*(?:\.\w+|/)|\.\w+|Dockerfile|Makefile|LICENSE", word):
            break
        found.append(word)
    return found


# --- What an operator chooses ---------------------------------------------------------------------------------------


def variables() -> dict[str, Any]:
    """Return every variable that the settings read, with its default."""
    return {
        str(choice).upper(): field.default
        for name, field in Settings.model_fields.items()
        for choice in getattr(field.validation_alias, "choices", [name])
    }


def test_the_variables_of_the_settings_are_exactly_those_of_the_table() -> None:
    assert names("docs/deploy.md", "Environment variables") == set(variables())


def test_the_table_of_variables_has_the_defaults() -> None:
    for row, cells in rows("docs/deploy.md", "Environment variables"):
        default = variables()[row[0]]
        if isinstance(default, bool | int | float):
            assert cells[-1].strip("`") == json.dumps(default).removesuffix(".0"), row
        elif default is not None:
            assert str(default) in cells[-1], row


# --- What a client sends --------------------------------------------------------------------------------------------


def field_rows(task: TaskType) -> dict[str, list[str]]:
    """Return the document's description of each field of a task."""
    kind = "Fields of the video tasks" if task.is_video else "Fields of the image tasks"
    said = [row for title in ("Fields of every task", kind) for row in rows("docs/api.md", title)]
    if task is TaskType.UPSCALE:
        said = [row for row in said if row[0][0] in {"task_type", *PictureRequest.model_fields}]
    single = [row for row in rows("docs/api.md", "Fields of single tasks") if f"`{task}`" in row[1][1]]
    return {row[0]: cells for row, cells in [*said, *single]}


@pytest.mark.parametrize("task", TaskType)
def test_the_fields_of_a_task_are_exactly_those_of_the_tables(task: TaskType) -> None:
    assert set(field_rows(task)) == set(REQUESTS[task].model_fields)


@pytest.mark.parametrize("task", TaskType)
def test_the_tables_have_the_range_and_the_default_of_every_field(task: TaskType) -> None:
    said, described = field_rows(task), REQUESTS[task].model_json_schema()["properties"]
    for name, field in REQUESTS[task].model_fields.items():
        same = re.match(r"as `(\w+)`", said[name][-2])
        text = said[same[1]][-2] if same else said[name][-2]
        for bound in _bounds(described[name]):
            assert re.search(rf"(?<![\d.]){re.escape(bound)}(?![\d])", text), (name, bound)
        if name != "task_type":
            default = "required" if field.is_required() else json.dumps(field.default)
            assert default.strip('"') in said[name][-1], name
    for name in said if not task.is_video else ():
        assert name != "scheduler" or re.findall(r"`(\w+)`", said[name][1])[: len(Scheduler)] == list(Scheduler)


def _bounds(described: dict[str, Any]) -> Iterator[str]:
    for choice in described.get("anyOf", [described]):
        for key in ("minimum", "exclusiveMinimum", "maximum"):
            if key in choice:
                yield f"{choice[key]:.10g}"


# --- What a client finds --------------------------------------------------------------------------------------------


def test_the_table_of_errors_has_every_code_and_whether_to_try_again() -> None:
    said = {row[0]: cells[1] for row, cells in rows("docs/api.md", "Errors")}
    assert set(said) == ERROR_CODES | {WORKER_LOST}
    leaves: list[type[JobError | Cancelled]] = [Cancelled]
    for branch in JobError.__subclasses__():
        leaves += branch.__subclasses__()
    for leaf in leaves:
        assert said[leaf.code] == ("yes" if leaf.retryable else "no"), leaf.code


def test_the_table_of_the_response_has_every_field() -> None:
    found, within = {"use_cloud_storage": True, "user_id": "u", "file_uid": "f"}, names("docs/api.md", "Response")
    fields, nested = set[str](), set[str]()
    file = Artifact("image/png", 1, 64, 64, 7, nsfw=False, url="https://u", storage_path="p")
    defaults = ModelDefaults("m", 64, 64, 4, 5.0, has_refiner=True, draft_strength=0.5)
    for asked in (
        {"width": 512, "height": 512, "high_noise_frac": 0.5, "scheduler": "DDIM"},
        {"task_type": "img2img", "image_url": "https://u"},
        {"task_type": "inpaint", "image_url": "https://u", "outpaint": {"left": 8}, "inpaint_area": "masked"},
        {"task_type": "text2video", "video_width": 512, "video_height": 512},
    ):
        request = parse({"prompt": "a fox", **found, **asked})
        params = resolve(request, defaults, max_image_pixels=10**7, max_job_cost=10**12)
        delivered = Delivered.stored(manifest(params, "m"), [file])
        usage: Usage = {"gpu_seconds": 1.0, "units": 1}
        data = delivered.generation_data(timings={"total": 1.0}, warnings=[], usage=usage)
        response = success(request, data)
        fields |= set(response)
        nested |= {*usage, *response["params"], *response["files"][0], *response.get("video_info", {})}
    assert fields <= within
    assert all(f"`{name}`" in read("docs/api.md") for name in nested)
    told = read("docs/api.md").partition("A failure is one plain sentence")[2].partition("### Progress")[0]
    for name in failure(Internal(), envelope({}), fresh_worker=True):
        assert f'"{name}"' in told or f"`{name}`" in told, name


def test_the_table_of_the_response_has_every_public_parameter() -> None:
    (told,) = [cells[-1] for row, cells in rows("docs/api.md", "Response") for name in row if name == "params"]
    public = {*ImageParams.__dataclass_fields__, *VideoParams.__dataclass_fields__} - PRIVATE
    assert [name for name in sorted(public) if f"`{name}`" not in told] == []


async def test_what_quote_and_capabilities_answer_is_described() -> None:
    services = World().services()
    told = read("docs/api.md").partition("## Asking without a job")[2].partition("\n## ")[0]
    quote = await answer({"action": "quote", "prompt": "a fox"}, services)
    assert set(re.findall(r'"(\w+)":', told)) >= set(quote)
    capabilities: dict[str, Any] = {**await answer({"action": "capabilities"}, services)}
    assert names("docs/api.md", "Asking without a job") == set(capabilities)
    nested = set(capabilities["limits"]) | set(capabilities["versions"]) | set(capabilities["size_presets"])
    for models in capabilities["models"].values():
        nested |= set(models[0])
    assert all(f"`{name}`" in told for name in nested)


def written() -> list[schema.Fields]:
    """Return everything that the document's schema writes."""
    owner, bid = Owner("u", "f"), ClaimRequest("job", "worker", "hash", "nonce", trace_id="1" * 32)
    begun = schema.processing(None, owner, bid, {}, attempt=1, lost_workers=0, now=datetime.now(UTC))
    again = schema.processing({"status": "failed"}, owner, bid, {}, attempt=2, lost_workers=0, now=datetime.now(UTC))
    usage = {"gpu_seconds": 1.0, "units": 1}
    ended = schema.completed({"usage": usage}), schema.failed("internal", "words", retryable=True, usage=usage)
    return [begun, again, *ended, schema.refused(begun, owner, bid, Internal(), {})]


def test_the_table_of_the_document_has_every_field_that_is_written() -> None:
    said = {name: cells for row, cells in rows("docs/api.md", "The document") for name in row}
    writes = written()
    assert set(said) == {name for fields in writes for name in fields}
    for fields in writes:
        for name in ("progress", "error", "claim", "usage"):
            parts = fields.get(name)
            if isinstance(parts, dict):
                assert all(f"`{part}`" in said[name][-1] for part in parts), name
