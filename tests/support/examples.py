"""How many examples hypothesis tries of a property; `tests/conftest.py` has the profiles."""

import hypothesis

QUICK = "quick"
"""`make unit` looks only for what breaks often: pytest --hypothesis-profile=quick."""
QUICK_EXAMPLES = 20


def examples(count: int) -> hypothesis.settings:
    """Return settings with `count` examples; the quick profile keeps its own few."""
    quick = hypothesis.settings.get_current_profile_name() == QUICK
    return hypothesis.settings(max_examples=min(count, QUICK_EXAMPLES) if quick else count)
