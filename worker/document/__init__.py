"""The Firestore document of a job: what it says, when it may change, and who keeps it alive."""
