"""The browser that the report page is looked at with."""

from tests.tensorboard_plugin.browser import browser, open_page

__all__ = ["browser", "open_page"]
