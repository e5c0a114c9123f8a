"""What the SDK reads before any handler is asked: one user's text must cost nobody else a job.

The SDK's real loop takes the jobs; a painter stands in for the models, which have no part in it.
"""

import json
from collections.abc import Iterator

import pytest

from tests.support.faulty_world import SCRIPT as PAINTING
from tools.emulators.control_plane import ControlPlane, Verbatim
from tools.emulators.worker_process import ROOT, WorkerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NEIGHBOUR = {"prompt": "a fox", "width": 64, "height": 64, "num_inference_steps": 1}


def hostile(value: str) -> Verbatim:
    return Verbatim(f'{{"prompt": "a fox", "x": {value}}}')


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
}


@pytest.fixture(scope="module", params=[1, 3])
def plane(request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    variables = {"WORKER_CONCURRENCY": str(request.param), "PYTHONPATH": str(ROOT)}
    with ControlPlane() as plane, WorkerProcess(plane, variables, script=PAINTING) as worker:
        worker.wait_ready()
        yield plane
        assert worker.returncode is None, worker.log[-2000:]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_text_that_python_does_not_read_is_refused_in_words_and_its_neighbours_are_served(
    plane: ControlPlane, name: str
) -> None:
    plane.pause()
    before, attack, after = plane.submit(NEIGHBOUR), plane.submit(HOSTILE[name]), plane.submit(NEIGHBOUR)
    plane.pause(False)
    for job in (before, after):
        assert "error" not in plane.wait(job, 60)
    answer = plane.wait(attack, 60)
    assert answer["error"].startswith("invalid_input: "), json.dumps(answer)[:500]
    assert len(answer["error"]) < 4_000
