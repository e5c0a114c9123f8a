"""All time budgets of the lease protocol, in seconds, and the inequalities that must hold between them.

Read them as `timing.LEASE_SECONDS` at each use, so that a test can shorten one here. docs/architecture.md explains the
protocol; tests/core/test_timing.py asserts `INVARIANTS`.
"""

LEASE_SECONDS = 90.0
"""How far ahead `expires_at` is set; after it the job counts as dead."""
HEARTBEAT_SECONDS = 10.0
"""How often the lease is renewed."""
WATCH_SECONDS = 3.0
"""How often the document is read if nothing is written: the longest that a `cancel_requested` goes unseen."""
PROGRESS_SECONDS = 1.0
"""Shortest interval between two writes of progress, and between two posts to RunPod."""
FRESH_SECONDS = 1.0
"""How old the last read of the document may be when a generation begins; else it is read beside the first step."""
UNSURE_STEP_SECONDS = 1.0
"""A job whose denoising steps are longer by its estimate waits for its admission before the first one: the wait is
short beside such a step, and a refused job would cost the GPU a whole step."""

CALL_SECONDS = 2.0
"""One call to Firestore, without retries."""
CLAIM_SECONDS = 3.5
"""A claim, with all its attempts."""
LATE_CLAIM_SECONDS = 1.0
"""A later attempt to claim, while the job runs without its document."""
BEAT_PATIENCE_SECONDS = 0.3
"""How long the terminal write waits for a running write of progress, which would change the version."""
TERMINAL_SECONDS = 2.5
"""The terminal write, with all its attempts."""
UPLOAD_SECONDS = 8.0
"""How long one upload may take before its result is returned inline."""
THUMBNAIL_SECONDS = 4.0
"""The upload of a thumbnail; a result is complete without it."""
RECALL_SECONDS = 2.0
"""Looking for stored objects of the same request; the same again for taking them over."""
REMOVE_SECONDS = 3.0
"""Deleting the objects of a result that is not kept."""
READ_OBJECT_SECONDS = 10.0
"""Reading a source picture from the bucket."""
SOURCES_SECONDS = 45.0
"""All pictures of a job together, from download to decoded pixels."""

STOP_GRACE_SECONDS = 30.0
"""How long after a stop request the GPU may report nothing before it counts as hung; for a slow model `GRACE_STEPS`
denoising steps, if that is longer. The job keeps its lease meanwhile."""
GRACE_STEPS = 3.0
"""In multiples of the longest denoising step, measured or estimated."""
MAX_STEP_SECONDS = 60.0
"""A job whose denoising steps are longer by its estimate is refused: a step cannot be interrupted."""
LOADING_GRACE_SECONDS = 180.0
"""As `STOP_GRACE_SECONDS`, while a network is read from a slow disk."""
LEFT_LOADING_SECONDS = 600.0
"""As above, for weights that a refused job leaves to the next one: they are wanted, and fp32 weights of 14B parameters
are one network."""
PROGRESS_POST_SECONDS = 2.0
"""Longest wait for RunPod to take one progress post."""

SPOOL_UPLOAD_SECONDS = 60.0
"""One upload of a spooled result; no response waits for it."""
SPOOL_COMPLETE_SECONDS = 10.0
"""Writing the document of a spooled result."""
SPOOL_AGAIN_SECONDS = 300.0
"""How often a worker tries to deliver spooled results."""
SPOOL_TAKEN_SECONDS = 600.0
"""How long a worker may hold a spooled result before another worker takes it."""

INVARIANTS = {
    "two heartbeats and their calls may be lost before a lease ends": 3 * (HEARTBEAT_SECONDS + CALL_SECONDS)
    < LEASE_SECONDS,
    "a claim has time for a second try": CALL_SECONDS < CLAIM_SECONDS,
    "a terminal write has time for a second try": CALL_SECONDS < TERMINAL_SECONDS,
    "a terminal write waits for no call that does not answer": BEAT_PATIENCE_SECONDS < CALL_SECONDS / 2,
    "a look at the document never delays a heartbeat": WATCH_SECONDS + CALL_SECONDS < HEARTBEAT_SECONDS,
    "a late claim never delays the next look": LATE_CLAIM_SECONDS < WATCH_SECONDS,
    "what a dead Firebase costs a job stays below 15 s": CLAIM_SECONDS + UPLOAD_SECONDS + TERMINAL_SECONDS < 15,
    "a hung step is given up, its document ended and its objects taken back within one lease": STOP_GRACE_SECONDS
    + TERMINAL_SECONDS
    + REMOVE_SECONDS
    < LEASE_SECONDS,
    "a thumbnail never delays the file that it shows": THUMBNAIL_SECONDS < UPLOAD_SECONDS,
    "a spooled result is delivered before another worker takes it": 8 * SPOOL_UPLOAD_SECONDS + SPOOL_COMPLETE_SECONDS
    < SPOOL_TAKEN_SECONDS,
}
"""Invariant -> whether it holds."""
