"""Every budget of the lease protocol in one place, in seconds, and the inequalities that have to hold between them.

Read as `timing.LEASE_SECONDS`, at each use: a test shortens a budget in this one place. docs/architecture.md explains
the protocol; `INVARIANTS` is asserted by tests/core/test_timing.py.
"""

LEASE_SECONDS = 90.0
"""A document's `expires_at` lies so far ahead; after it anyone may call the job dead."""
HEARTBEAT_SECONDS = 10.0
"""How often the lease is renewed."""
WATCH_SECONDS = 3.0
"""How often the document is read when nothing is written: the longest a user's `cancel_requested` goes unseen."""
PROGRESS_SECONDS = 1.0
"""Progress is written, and posted to RunPod, at most so often."""
FRESH_SECONDS = 1.0
"""How old the news of the document may be when a generation begins; older ones are asked for beside its first step."""
UNSURE_STEP_SECONDS = 1.0
"""Of a job whose denoising steps are longer by its estimate the first one waits until it is known to be wanted: beside
such a step that is no time, and whoever turns out not to want it costs the GPU a step."""

CALL_SECONDS = 2.0
"""One call to Firestore; nothing is retried inside it."""
CLAIM_SECONDS = 3.5
"""A claim, with all its tries."""
LATE_CLAIM_SECONDS = 1.0
"""One more try to claim, while the job runs without its document."""
BEAT_PATIENCE_SECONDS = 0.3
"""How long the terminal write waits for a write of progress under way, after which it would have to look again."""
TERMINAL_SECONDS = 2.5
"""Writing the terminal state, with all its tries."""
UPLOAD_SECONDS = 8.0
"""How long one upload may go without success before its result goes back inline."""
THUMBNAIL_SECONDS = 4.0
"""One upload of a thumbnail, without which a result is one, too."""
RECALL_SECONDS = 2.0
"""Looking for stored objects of the same request, and again for taking them over."""
REMOVE_SECONDS = 3.0
"""Taking back objects of a result that is not kept."""
READ_OBJECT_SECONDS = 10.0
"""Reading a source picture from the bucket."""
SOURCES_SECONDS = 45.0
"""All pictures of a job together, from their download to their pixels."""

STOP_GRACE_SECONDS = 30.0
"""How long nothing may move before the GPU counts as hung, once the job was asked to stop. Of a slow model it is
`GRACE_STEPS` steps, if that is longer; the job keeps its lease meanwhile."""
GRACE_STEPS = 3.0
"""How many of the longest denoising steps, seen or estimated, that is."""
MAX_STEP_SECONDS = 60.0
"""A denoising step cannot be interrupted: a job whose steps are longer by the estimate is refused."""
LOADING_GRACE_SECONDS = 180.0
"""The same for one network that is being read from a slow disk."""
PROGRESS_POST_SECONDS = 2.0
"""Longest wait for RunPod to take one progress post."""

SPOOL_UPLOAD_SECONDS = 60.0
"""One upload of a spooled result: nobody waits for it."""
SPOOL_COMPLETE_SECONDS = 10.0
"""Writing the document of a spooled result."""
SPOOL_AGAIN_SECONDS = 300.0
"""How often a worker looks whether spooled results can be delivered."""
SPOOL_TAKEN_SECONDS = 600.0
"""How long a worker may be busy with a spooled result; after that another one takes it."""

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
"""What the budgets promise each other -> whether it holds."""
