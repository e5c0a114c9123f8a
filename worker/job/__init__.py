"""One job from its arrival to its answer."""
