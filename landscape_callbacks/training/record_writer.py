"""Append records to the run's record file and to its TensorBoard event files."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from landscape_callbacks.records import RECORD_FILE, Record, encode, index_records

PLUGIN_NAME = "landscape"
RECORDS_PER_TAG = 8
SECONDS_BETWEEN_FLUSHES = 10.0


class RecordWriter:
    """Writes each record as one line of ``<log_dir>/landscape.jsonl`` and as one string tensor a TensorBoard writer.

    Tensors go under the plugin name ``landscape`` and the tag ``<kind>/<name>/<block>``. A block takes at most 8
    records: TensorBoard keeps a sample of 10 events a tag with ``--load_fast=false`` (100 with the fast loader), so
    none is ever dropped. Steps rise strictly within a block, since the fast loader discards what a lower or equal
    step follows; a record that does not rise (a resumed run, two records of one step) opens the next block.

    Monitoring must not stop training: a log directory that cannot be written (read-only, full disk, a remote address)
    is reported by one warning and left alone afterwards, while TensorBoard goes on.

    Args:
        log_dir: Directory of the run, made when the first record arrives. ``None`` writes no record file. A file that
            another process left behind is continued, without its last line if that was cut off.
        summary_writers: ``SummaryWriter`` objects of ``torch.utils.tensorboard``, such as
            ``TensorBoardLogger.experiment``.

    Example:
        >>> import tempfile
        >>> from landscape_callbacks.records import Record, read_records
        >>> log_dir = tempfile.mkdtemp()
        >>> with RecordWriter(log_dir) as writer:
        ...     writer.write(Record("slice", "gradient", step=3, arrays={"alpha": [0.0, 1.0], "loss": [2.0, 1.5]}))
        >>> [(record.name, record.step) for record in read_records(log_dir)]
        [('gradient', 3)]
    """

    def __init__(self, log_dir: str | Path | None, summary_writers: Iterable[Any] = ()) -> None:
        self.log_dir = log_dir
        self.summary_writers = tuple(summary_writers)
        self._file: Any = None
        self._opened = False
        self._blocks: dict[tuple[str, str], _Block] = {}
        self._next_flush = time.monotonic() + SECONDS_BETWEEN_FLUSHES

    def write(self, record: Record) -> None:
        """Writes one record; 0.1 to 0.3 ms for what monitors emit."""
        line = encode(record)
        self._open()
        self._append(line.encode("ascii") + b"\n")
        if self.summary_writers:
            block = self._blocks.setdefault((record.kind, record.name), _Block()).take(int(record.step))
            tag = f"{record.kind}/{record.name}/{block:06d}"
            for summary_writer in self.summary_writers:
                _add_string_tensor(summary_writer, tag, line, int(record.step))
            if time.monotonic() > self._next_flush:
                self.flush()

    def flush(self) -> None:
        """Makes everything written visible to readers. The record file is not buffered; event files are."""
        self._next_flush = time.monotonic() + SECONDS_BETWEEN_FLUSHES
        for summary_writer in self.summary_writers:
            try:
                summary_writer.flush()
            except OSError as error:
                self._warn(f"TensorBoard's event file could not be flushed ({error}).")

    def close(self) -> None:
        """Flushes and closes the record file. The summary writers belong to their loggers and stay open."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        """Opens the record file once, and learns from it which blocks an earlier process has filled."""
        if self._opened:
            return
        self._opened = True
        if self.log_dir is None:
            return
        if "://" in str(self.log_dir):
            self._warn(
                f"Landscape records are not written to {self.log_dir}: a line cannot be appended at a remote address."
            )
            return
        path = Path(self.log_dir) / RECORD_FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
            self._continue_file()
        except OSError as error:
            self._give_up(error)

    def _continue_file(self) -> None:
        """Counts the records that are there and cuts off an unfinished last line, which would spoil the next one."""
        for place in index_records(Path(self._file.name)):
            if not place.complete:
                self._file.truncate(place.offset)
            elif place.kind:
                self._blocks.setdefault((place.kind, place.name), _Block()).take(place.step)

    def _append(self, line: bytes) -> None:
        if self._file is None:
            return
        try:
            written = self._file.write(line)
            if written != len(line):
                self._file.truncate(self._file.seek(0, 2) - (written or 0))
                raise OSError("no space left for the whole record")
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._warn(
            f"Landscape records are no longer written to {Path(str(self.log_dir)) / RECORD_FILE}: {error}. Training "
            "goes on; free or change the log directory to keep them in the next run."
        )

    def _warn(self, sentence: str) -> None:
        warnings.warn(sentence, RuntimeWarning, stacklevel=3)


class _Block:
    """The tag block that a series writes to: at most ``RECORDS_PER_TAG`` records, steps rising strictly."""

    def __init__(self) -> None:
        self.number = 0
        self.records = 0
        self.last_step: int | None = None

    def take(self, step: int) -> int:
        """The number of the block for the next record."""
        if self.records == RECORDS_PER_TAG or (self.last_step is not None and step <= self.last_step):
            self.number += 1
            self.records = 0
        self.records += 1
        self.last_step = step
        return self.number


def _add_string_tensor(summary_writer: Any, tag: str, text: str, step: int) -> None:
    """The one place that reaches for the writer's file writer: ``SummaryWriter`` has no public way to add a tensor.

    ``data_class`` is required: without it both TensorBoard loaders drop the summary silently.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto

    plugin_data = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME)
    metadata = SummaryMetadata(plugin_data=plugin_data, data_class="DATA_CLASS_TENSOR")
    tensor = TensorProto(dtype="DT_STRING", string_val=[text.encode("ascii")])
    value = Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
    summary_writer._get_file_writer().add_summary(Summary(value=[value]), step)
