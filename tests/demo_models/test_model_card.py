"""The model card beside the built-in weights names every weight file with its SHA-256."""

import hashlib
import re

from worker.engine.models.hub import DEMO_MODELS

ROW = re.compile(r"^\| `(?P<path>\S+\.safetensors)` \| `(?P<sha256>[0-9a-f]{64})` \|$", re.MULTILINE)


def test_the_card_lists_every_weight_file_with_its_hash() -> None:
    listed = dict(ROW.findall((DEMO_MODELS / "README.md").read_text(encoding="utf-8")))
    files = {
        path.relative_to(DEMO_MODELS).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in DEMO_MODELS.rglob("*.safetensors")
    }
    assert listed == files
