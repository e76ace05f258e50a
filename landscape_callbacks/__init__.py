"""Watch the loss landscape while a Lightning model trains."""
