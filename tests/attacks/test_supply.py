"""What the repository itself may not do: execute data as code, read pickled weights, start a shell."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from worker.core.config import load_settings
from worker.core.errors import ModelUnavailable
from worker.core.types import TaskType
from worker.engine.models.registry import ModelRegistry

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(
    path for pattern in ("*.py", "worker/**/*.py", "tools/*.py", "benchmarks/**/*.py") for path in ROOT.glob(pattern)
)
RUN_CODE = {"eval", "exec", "compile", "__import__"}
UNSAFE = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cPickle.load", "dill.load", "joblib.load", "marshal.loads",
    "shelve.open", "torch.load", "torch.hub.load", "numpy.load", "np.load", "yaml.load", "yaml.unsafe_load",
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "tempfile.mktemp",
    "tarfile.open", "zipfile.ZipFile", "shutil.unpack_archive", "ssl._create_unverified_context",
}  # fmt: skip
PICKLES = re.compile(r"\.(?:bin|ckpt|pt|pth|pkl|pickle|npy|npz|onnx|gguf)\b")


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def dotted(node: ast.AST) -> str:
    """Return `os.path.join` for a name with attributes; for anything else only its last attributes."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@cache
def calls() -> tuple[tuple[str, str, ast.Call], ...]:
    """Return (place, dotted name, call) of every call in the shipped code."""
    return tuple(
        (f"{path.relative_to(ROOT)}:{node.lineno}", dotted(node.func), node)
        for path in SHIPPED
        for node in nodes(path)
        if isinstance(node, ast.Call)
    )


def keyword(call: ast.Call, name: str) -> object:
    for item in call.keywords:
        if item.arg == name:
            return item.value.value if isinstance(item.value, ast.Constant) else ast.unparse(item.value)
    return None


def test_there_is_something_to_look_at() -> None:
    assert len(SHIPPED) > 40
    assert len(calls()) > 1000


def test_nothing_runs_code_out_of_data() -> None:
    for place, name, call in calls():
        assert name not in RUN_CODE, place
        assert name not in UNSAFE, f"{place}: {name}"
        assert keyword(call, "shell") in {None, False}, f"{place}: shell"
        assert keyword(call, "trust_remote_code") in {None, False}, f"{place}: trust_remote_code"
        assert keyword(call, "weights_only") in {None, True}, f"{place}: weights_only"
        assert keyword(call, "allow_pickle") in {None, False}, f"{place}: allow_pickle"
        assert keyword(call, "verify") in {None, True}, f"{place}: verify"


def test_nothing_imports_a_reader_of_pickles() -> None:
    banned = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "cloudpickle", "yaml"}
    for path in SHIPPED:
        for node in nodes(path):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not banned & {name.split(".")[0] for name in names}, path


def test_weights_are_read_as_safetensors_wherever_a_library_would_take_a_pickle() -> None:
    """`from_pretrained` of a network falls back to pickles unless told otherwise; tokenizers have no weights."""
    loads = [
        (f"{path.name}:{call.lineno}", function.name, call)
        for path in SHIPPED
        for function in nodes(path)
        if isinstance(function, ast.FunctionDef)
        for call in ast.walk(function)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in {"from_pretrained", "from_single_file"}
    ]
    assert loads
    for place, function, call in loads:
        name = ast.unparse(call.func)
        without_weights = function == "_small" or re.search(r"tokenizer|processor", name, re.IGNORECASE)
        through_options = any(item.arg is None for item in call.keywords)  # checked below
        single_file = name.endswith(".from_single_file")  # the registry passes only safetensors to it
        explicit = keyword(call, "use_safetensors") is True
        assert without_weights or through_options or single_file or explicit, place
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "worker" / "engine").rglob("*.py"))
    assert "use_safetensors" in text
    assert not re.search(r"use_safetensors[\"']?\s*[=:]\s*(?:False|None)", text)


def test_no_download_asks_for_a_pickle() -> None:
    for path in SHIPPED:
        if path.name == "messages.py":
            continue  # texts for people
        for node in nodes(path):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
                # A bare suffix names a kind of file to the operator who set it; a request to a hub is a pattern.
                asks = not node.value.startswith(".") and "ignore" not in node.value
                assert not (asks and PICKLES.search(node.value)), f"{path}: {node.value}"


@pytest.mark.parametrize("suffix", ["bin", "ckpt", "pt", "pth", "pkl", "safetensors.bin", "onnx"])
def test_the_registry_takes_no_pickle(suffix: str, tmp_path: Path) -> None:
    weights = tmp_path / f"model.{suffix}"
    weights.write_bytes(b"\x80\x04cos\nsystem\n(S'id'\ntR.")
    folder = tmp_path / "folder"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline", "unet": ["diffusers", "U"]}')
    (folder / "unet" / f"diffusion_pytorch_model.{suffix}").write_bytes(weights.read_bytes())
    for value in (str(weights), str(folder), f"https://evil.example/model.{suffix}"):
        with pytest.raises(ModelUnavailable) as caught:
            ModelRegistry(load_settings(sdxl_model=value), cuda=False, where=()).spec(TaskType.TEXT2IMG)
        assert str(tmp_path) not in str(caught.value)


def test_a_pickle_that_calls_itself_safetensors_is_not_taken(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"\x80\x04cos\nsystem\n(S'id'\ntR.")
    with pytest.raises(ModelUnavailable, match="a file that is pickled, which can run code when it is read"):
        ModelRegistry(load_settings(sdxl_model=str(weights)), cuda=False, where=()).spec(TaskType.TEXT2IMG)


def test_everything_is_pinned() -> None:
    for name in ("requirements.txt", "requirements-dev.txt", "constraints.txt"):
        for line in re.sub(r" \\\n +--hash=sha256:[0-9a-f]{64}", "", (ROOT / name).read_text()).splitlines():
            if line.strip() and not line.startswith(("#", "-r ")):
                assert re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[^\s;]+(\s*;.*)?(\s+#.*)?", line), (
                    f"{name}: {line}"
                )


def test_no_key_is_in_the_repository() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout, so nobody can say what is in the repository")
    secret = re.compile(
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----\\?n?\s*MII[A-Za-z0-9+/]{40}"
        r"|\bAIza[\w-]{35}\b|\brpa_[A-Z0-9]{30,}|\bhf_[A-Za-z]{30,}"
    )
    for name in listed.stdout.split("\0"):
        path = ROOT / name
        if name and path.is_file() and path.stat().st_size < 2_000_000:
            assert not secret.search(path.read_text(encoding="utf-8", errors="ignore")), name
