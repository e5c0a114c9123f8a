"""Input that the SDK reads before any handler runs: one user's text must cost nobody else a job.

The SDK's real loop takes the jobs; a painter stands in for the models.
"""

import json
from collections.abc import Iterator

import pytest

from tests.support.attacked_world import TABLE, Row, note
from tests.support.faulty_world import SCRIPT as PAINTING
from tools.emulators.control_plane import ControlPlane, Verbatim
from tools.emulators.worker_process import ROOT, WorkerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NEIGHBOUR = {"prompt": "a fox", "width": 64, "height": 64, "num_inference_steps": 1}


UNREAD = (95, "JSON that Python does not read, before any handler")


def hostile(value: str, field: str = "x") -> Verbatim:
    return Verbatim(f'{{"prompt": "a fox", "{field}": {value}}}')


HOSTILE = {
    "1,000 levels": hostile("[" * 1_000 + "]" * 1_000),
    "1,750 levels of objects": hostile('{"a":' * 1_750 + "1" + "}" * 1_750),
    "a million levels": hostile("[" * 10**6 + "]" * 10**6),
    "a number of 5,000 digits": hostile("9" * 5_000),
    "a number of a million digits": hostile("-" + "1" * 10**6),
    "a lone surrogate": hostile('"\\ud800"'),
    "one key a thousand times": Verbatim("{" + ", ".join(['"prompt": [["a fox"]]'] * 1_000) + "}"),
    "300,000 keys": Verbatim("{" + ", ".join(f'"{"k" * 20}{n}": 1' for n in range(300_000)) + "}"),
    "not a number": hostile("NaN"),
    "without end": hostile("[-Infinity, 1e400, -1e999999999]"),
    "levels in place of all": Verbatim("[" * 2_000 + "]" * 2_000),
    "levels in a list of a field": hostile('[{"path": ' + "[" * 1_500 + "]" * 1_500 + "}]", "loras"),
    "levels in a picture's place": hostile('[{"image_url": ' + '{"a":' * 990 + "1" + "}" * 990 + "}]", "ip_adapters"),
    "digits in a scale": hostile('[{"type": "canny", "conditioning_scale": ' + "9" * 4_400 + "}]", "controlnets"),
    "a key of a megabyte, a thousand times": Verbatim("{" + ", ".join([f'"{"k" * 9_000}": 1'] * 1_000) + "}"),
    "surrogates in every key": Verbatim("{" + ", ".join(f'"\\ud8{n:02x}": "\\udc{n:02x}"' for n in range(256)) + "}"),
    "zeros without end": hostile("0." + "0" * 10**6 + "1"),
}


@pytest.fixture(scope="module", params=[1, 3])
def plane(request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    variables = {"WORKER_CONCURRENCY": str(request.param), "PYTHONPATH": str(ROOT)}
    with ControlPlane() as plane, WorkerProcess(plane, variables, script=PAINTING) as worker:
        worker.wait_ready()
        yield plane
        TABLE.setdefault(UNREAD[0], Row(UNREAD[1])).workers_lost += worker.returncode is not None
        assert worker.returncode is None, worker.log[-2000:]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_text_that_python_does_not_read_is_refused_in_words_and_its_neighbours_are_served(
    plane: ControlPlane, name: str
) -> None:
    plane.pause()
    before, attack, after = plane.submit(NEIGHBOUR), plane.submit(HOSTILE[name]), plane.submit(NEIGHBOUR)
    plane.pause(False)
    entry = TABLE.setdefault(UNREAD[0], Row(UNREAD[1]))
    for job in (before, after):
        served = "error" not in plane.wait(job, 60)
        entry.others_lost += not served
        assert served
    answer = plane.wait(attack, 60)
    assert answer["error"].startswith("invalid_input: "), json.dumps(answer)[:500]
    assert len(answer["error"]) < 4_000
    note(UNREAD, refused=1, harmless=2)
