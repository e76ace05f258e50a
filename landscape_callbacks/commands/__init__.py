"""What `python -m landscape_callbacks` can do; one command a file."""
