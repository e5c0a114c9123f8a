"""What a job hangs onto the loaded networks and takes off again, whichever way it ends."""
