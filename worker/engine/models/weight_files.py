"""Which safetensors files of a folder are loaded, and whether all of them are there.

A download or a copy that was cut off is never taken for a model: every shard that an index names has to be there,
to its last byte. Reads headers and indexes only. Imports no torch.
"""

import functools
import re
from pathlib import Path

from worker.engine.models.checkpoint import data_bytes, read_json

_READ = re.compile(r"(?:diffusion_pytorch_)?model(?:\.fp16)?(?:-\d+-of-\d+)?(?:\.fp16)?\.safetensors")
"""What diffusers and transformers read. Not a second copy under another name, such as `.non_ema` or `.bf16`."""


def variant_of(folder: Path, *, half: bool) -> str | None:
    """`fp16` where the folder's half-precision files are wanted, or are the only ones; else None.

    Files that are not all there are not wanted where the others are.
    """
    names = [path.name for path in (*_named(folder, fp16=False), *_named(folder, fp16=True))]
    fp16 = [name for name in names if ".fp16" in name]
    if not fp16:
        return None
    full_complete, half_complete = (_is_complete(folder, fp16=wanted) for wanted in (False, True))
    if full_complete != half_complete:
        return "fp16" if half_complete else None
    return "fp16" if half or len(fp16) == len(names) else None


def weight_files(folder: Path, *, half: bool) -> list[Path]:
    """The safetensors files that loading the component in `folder` reads."""
    return sorted(_named(folder, fp16=variant_of(folder, half=half) is not None))


def has_weights_in(folder: Path) -> bool:
    """Whether any weights in `folder` have a name that is read."""
    return bool(_named(folder, fp16=False) or _named(folder, fp16=True))


def is_complete(folder: Path) -> bool:
    """Whether the weights in `folder` are all there, in full precision or as `fp16` files."""
    return _is_complete(folder, fp16=False) or _is_complete(folder, fp16=True)


def is_whole(path: Path) -> bool:
    """Whether a file is of the safetensors format and holds every byte that its header speaks of."""
    try:
        stat = path.stat()
    except OSError:
        return False
    return _is_whole(path, stat.st_size, stat.st_mtime_ns)


def _is_complete(folder: Path, *, fp16: bool) -> bool:
    files = _named(folder, fp16=fp16)
    return bool(files) and all(is_whole(path) for path in files)


def _named(folder: Path, *, fp16: bool) -> set[Path]:
    """The files that there are, or that an index says there should be."""
    found = (path for path in folder.glob("*.safetensors") if _READ.fullmatch(path.name))
    files = {path for path in found if (".fp16" in path.name) == fp16}
    for index in folder.glob("*.safetensors.index*.json"):
        if (".fp16" in index.name) == fp16:
            files |= {folder / str(shard) for shard in read_json(index).get("weight_map", {}).values()}
    return files


@functools.lru_cache(maxsize=1024)
def _is_whole(path: Path, size: int, _changed: int) -> bool:
    needed = data_bytes(path)
    return needed is not None and size >= needed
