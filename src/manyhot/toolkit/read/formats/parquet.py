"""Parquet, a part at a time.

polars decodes ahead of whoever asks for the rows, and a row group as a whole (pola-rs/polars#28569, #26679): reading
560 MB of text in one row group took 1.1 GB, and in slices 650 MB and time that grows with the square of the file.
Writers make row groups of a million rows. pyarrow reads pages, and took 225 MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manyhot.toolkit.errors import InputError
from manyhot.toolkit.read.formats.files import BLOCK_BYTES, MAX_ROW_BYTES, POLARS_ERRORS, not_parquet

# A value that comes again and again is stored once, and read as it is stored: 16,384 rows of one text of 400 KB would
# be 6 GB. How much memory rows take is known before it is taken.
MAX_ROWS = 2**14
# What is read of a column at a time; a file may have thousands of columns.
BUFFER_BYTES = 2**16


def read_rows(path: Path, wanted: Sequence[str], size: int = BLOCK_BYTES) -> Iterator[tuple[pl.DataFrame, float]]:
    """Yield the rows of a file in frames of about `size` bytes each, with the share of all rows that are read.

    Args:
        path: the file.
        wanted: the columns to read; all, where none is named or one is missing.
        size: bytes of the columns, unpacked; fewer where that would be more than `MAX_ROWS` rows.

    Raises:
        InputError: no Parquet file, a damaged one, or a row of more than `MAX_ROW_BYTES`.
    """
    try:
        texts = _texts(pq.read_schema(path))
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES, read_dictionary=texts) as file:
            names, metadata = file.schema_arrow.names, file.metadata
            columns = list(dict.fromkeys(wanted)) if wanted and set(wanted) <= set(names) else None
            done = 0
            for group in range(metadata.num_row_groups):
                about = metadata.row_group(group)
                a_row = about.total_byte_size / max(about.num_rows, 1)
                rows = min(max(int(size / max(a_row, 1)), 1), MAX_ROWS)
                for batch in file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False):
                    for part in _cut(path, batch, done, size):
                        done += part.num_rows
                        yield pl.DataFrame(pl.from_arrow(_written_out(part, texts))), done / metadata.num_rows
    except (OSError, pa.ArrowException, *POLARS_ERRORS) as error:
        raise not_parquet(path, error) from None


def _texts(schema: Any) -> list[str]:
    """List the columns of text by their names, but for those whose writer kept them as categories."""
    return [field.name for field in schema if _is_text(field.type)]


def _is_text(dtype: Any) -> bool:
    return pa.types.is_string(dtype) or pa.types.is_large_string(dtype)


def _lengths(texts: Any) -> np.ndarray:
    lengths: Any = pc.call_function("binary_length", [texts])
    return lengths.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)


def _cut(path: Path, batch: Any, done: int, size: int) -> Iterator[Any]:
    """Cut a batch after `done` rows where the texts in it, written out, have `size` bytes or a little more."""
    lengths = np.zeros(batch.num_rows, dtype=np.int64)
    for column in batch.columns:
        if pa.types.is_dictionary(column.type) and _is_text(column.type.value_type):
            of = np.append(_lengths(column.dictionary), 0)  # the last is that of a missing cell
            lengths += of[column.indices.fill_null(len(of) - 1).to_numpy(zero_copy_only=False)]
        elif _is_text(column.type):
            lengths += _lengths(column)
    if lengths.size and lengths.max() > MAX_ROW_BYTES:
        raise InputError(
            f"{path}, row {done + int(lengths.argmax()) + 1}: expected texts of at most {MAX_ROW_BYTES >> 20} MB in a "
            f"row, got {lengths.max() >> 20} MB; cut them"
        )
    part = np.cumsum(lengths) // size
    ends = [*(np.flatnonzero(np.diff(part)) + 1).tolist(), batch.num_rows]
    for first, end in zip([0, *ends], ends, strict=False):
        yield batch.slice(first, end - first)


def _written_out(batch: Any, texts: list[str]) -> Any:
    """Write columns of text out as text."""
    columns = [
        column.dictionary_decode() if name in texts and pa.types.is_dictionary(column.type) else column
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
