"""Callbacks for a Trainer, one a file."""
