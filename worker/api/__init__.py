"""The wire format: what a request may say, what it asks for, and the JSON that goes back. Pure."""
