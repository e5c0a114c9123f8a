"""The Firestore document of a job: its fields, its transitions and its lease."""
