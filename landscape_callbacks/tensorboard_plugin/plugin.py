"""The TensorBoard plugin: routes from HTTP requests to records and to the files of the front end."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tensorboard import errors, plugin_util
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import Request, Response

from landscape_callbacks.tensorboard_plugin.data import LandscapeData, Place, SeriesPart, UnknownSeriesError
from landscape_callbacks.tensorboard_plugin.event_reader import PLUGIN_NAME
from landscape_callbacks.tensorboard_plugin.metrics import read_metrics

STATIC_FOLDER = Path(__file__).parent / "static"
MIME_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
MAX_BUDGET = 16_000_000
MAX_TAGS = 32

logger = logging.getLogger(__name__)
WsgiApp = Callable[..., Iterable[bytes]]


class LandscapePlugin(base_plugin.TBPlugin):
    """Shows what the monitors recorded in a tab of its own; TensorBoard finds it by its entry point."""

    plugin_name = PLUGIN_NAME

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._provider = context.data_provider
        self._data = LandscapeData(self._provider) if self._provider is not None else None

    def get_plugin_apps(self) -> dict[str, WsgiApp]:
        """One route for each kind of question and one for each file: no path is ever taken from a request."""
        routes: dict[str, WsgiApp] = {
            "/runs": self._route(self._runs),
            "/records": self._route(self._records),
            "/record": self._route(self._record),
            "/metrics": self._route(self._metrics),
        }
        for path in sorted(STATIC_FOLDER.rglob("*")):
            if path.suffix in MIME_TYPES:
                routes[f"/static/{path.relative_to(STATIC_FOLDER).as_posix()}"] = _file_route(path)
        return routes

    def is_active(self) -> bool:
        """False: TensorBoard shows the tab by itself once data of this plugin's name exist, without asking a run."""
        return False

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Where the front end begins."""
        return base_plugin.FrontendMetadata(es_module_path="/static/index.js", tab_name="Landscape")

    def _runs(self, data: LandscapeData, request: Request, context: Any, experiment: str) -> tuple[bytes, str]:
        runs = data.runs(context, experiment)
        content = [{"run": run, "series": [asdict(series) for series in runs[run]]} for run in sorted(runs)]
        return json.dumps({"runs": content}).encode("ascii"), "application/json"

    def _records(self, data: LandscapeData, request: Request, context: Any, experiment: str) -> tuple[bytes, str]:
        place, kind, name = _series(request, context, experiment)
        budget = min(_number(request, "budget", 4_000_000), MAX_BUDGET)
        if request.args.get("preview"):
            return encode_part(data.preview(place, kind, name, budget=budget)), "application/x-ndjson"
        part = data.records(place, kind, name, first=_number(request, "first", 0), budget=budget)
        return encode_part(part), "application/x-ndjson"

    def _record(self, data: LandscapeData, request: Request, context: Any, experiment: str) -> tuple[bytes, str]:
        place, kind, name = _series(request, context, experiment)
        return data.record(place, kind, name, _number(request, "position", 0)), "application/x-ndjson"

    def _metrics(self, data: LandscapeData, request: Request, context: Any, experiment: str) -> tuple[bytes, str]:
        tags = request.args.getlist("tag")[:MAX_TAGS]
        content = read_metrics(self._provider, context, experiment, _argument(request, "run"), tags)
        return json.dumps(content).encode("ascii"), "application/json"

    def _route(self, answer: Callable[..., tuple[bytes, str]]) -> WsgiApp:
        """A WSGI application around an answer, which turns every failure into a sentence in JSON."""

        def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            request = Request(environ)
            try:
                response = self._respond(request, answer)
            except (UnknownSeriesError, errors.NotFoundError) as error:
                response = _failure(request, 404, str(error))
            except ValueError as error:
                response = _failure(request, 400, str(error))
            except Exception as error:
                logger.exception("The Landscape tab could not answer %s", request.path)
                reason = f"{type(error).__name__}: {error}"
                response = _failure(request, 500, f"TensorBoard could not read the data: {reason}")
            return response(environ, start_response)

        return application

    def _respond(self, request: Request, answer: Callable[..., tuple[bytes, str]]) -> Response:
        if request.method not in ("GET", "HEAD"):
            return _failure(request, 405, f"Only GET is answered here, got {request.method}.")
        if self._data is None:
            return _failure(request, 503, "TensorBoard runs without a data provider: leave out --generic_data=false.")
        context = plugin_util.context(request.environ)
        content, content_type = answer(self._data, request, context, plugin_util.experiment_id(request.environ))
        return http_util.Respond(request, content, content_type)


def encode_part(part: SeriesPart) -> bytes:
    """A header line, then one record a line."""
    header = {"first": part.first, "steps": part.steps, "positions": part.positions, "preview": part.preview}
    return b"\n".join([json.dumps(header, separators=(",", ":")).encode("ascii"), *part.lines])


def _series(request: Request, context: Any, experiment: str) -> tuple[Place, str, str]:
    run, kind, name = (_argument(request, key) for key in ("run", "kind", "name"))
    return Place(context, experiment, run), kind, name


def _file_route(path: Path) -> WsgiApp:
    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        response = http_util.Respond(Request(environ), path.read_bytes(), MIME_TYPES[path.suffix])
        return response(environ, start_response)

    return application


def _failure(request: Request, code: int, sentence: str) -> Response:
    return http_util.Respond(request, {"error": sentence}, "application/json", code=code)


def _argument(request: Request, key: str) -> str:
    value = request.args.get(key)
    if value is None:
        raise ValueError(f"The request lacks the argument {key!r}.")
    return value


def _number(request: Request, key: str, default: int) -> int:
    text = request.args.get(key, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise ValueError(f"The argument {key!r} has to be a whole number from 0, got {text[:40]!r}.")
    return int(text)
