"""What those who watch the worker from outside are told: one trace a job, and counts. Nothing, where nobody asked."""
