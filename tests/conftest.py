"""Fixtures that several folders of tests share. What every test starts from is in the conftest.py above."""

from tests.tensorboard_plugin.browser import browser, open_page

__all__ = ["browser", "open_page"]
