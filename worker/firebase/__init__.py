"""Google's clients behind our Protocols. Used by the handler and the reaper alone."""
