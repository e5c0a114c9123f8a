"""Optional speed-ups, each behind one switch and without any effect if it is off."""
