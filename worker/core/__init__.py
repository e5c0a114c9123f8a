"""Used by every other package: settings, errors, logging, shared types and time budgets. Imports none of them."""
