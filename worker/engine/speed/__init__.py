"""What trades something for speed: each part behind one switch, gone without a trace where it is off."""
