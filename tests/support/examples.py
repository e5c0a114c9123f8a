"""How many examples hypothesis tries of a property; `tests/conftest.py` has the profiles."""

import hypothesis

QUICK = "quick"
"""`make unit` looks for what breaks often: pytest --hypothesis-profile=quick."""
QUICK_EXAMPLES = 20


def examples(count: int) -> hypothesis.settings:
    """So many examples; in the quick profile only its few."""
    quick = hypothesis.settings.get_current_profile_name() == QUICK
    return hypothesis.settings(max_examples=min(count, QUICK_EXAMPLES) if quick else count)
