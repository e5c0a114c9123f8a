"""Which types of control picture a ControlNet takes, told from its config. Imports no torch."""

from collections.abc import Mapping
from typing import Any, get_args

from worker.core.types import ControlType

UNION_MODES: Mapping[ControlType, int] = {
    "openpose": 0,
    "depth": 1,
    "softedge": 2,
    "scribble": 2,
    "canny": 3,
    "lineart": 3,
    "normal": 4,
    "segment": 5,
    "tile": 6,
}
"""Type -> its number in a union network (https://huggingface.co/xinsir/controlnet-union-sdxl-1.0, "control mode": soft
edges and scribbles share one, as do all thin lines; `tile` is ProMax's)."""
_PROMAX_MODES = 8


def is_controlnet(config: Mapping[str, Any]) -> bool:
    """Whether this is the config of a ControlNet for diffusers."""
    return str(config.get("_class_name", "")).startswith("ControlNet")


def is_union(config: Mapping[str, Any]) -> bool:
    """Whether one network takes several types: its published config names no class of diffusers, but says how many."""
    return "num_control_type" in config


def of_union(config: Mapping[str, Any]) -> tuple[ControlType, ...]:
    """The types that a union network takes; without its config, those of ProMax."""
    modes = int(config.get("num_control_type", _PROMAX_MODES))
    return tuple(kind for kind in get_args(ControlType) if UNION_MODES[kind] < modes)
