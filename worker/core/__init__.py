"""What every other package may use: settings, errors, log lines, shared types and times. Imports none of them."""
