"""Parquet, a part at a time.

polars decodes ahead of whoever asks for the rows, and a row group as a whole (pola-rs/polars#28569, #26679): reading
560 MB of text in one row group took 1.1 GB, and in slices 650 MB and time that grows with the square of the file.
Writers make row groups of a million rows. pyarrow reads pages, and took 225 MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from manyhot.toolkit.read.formats.files import BLOCK_BYTES, POLARS_ERRORS, not_parquet

# A value that comes again and again is stored once: how much memory a row takes is not known before it is read.
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
        InputError: no Parquet file, or a damaged one.
    """
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES) as file:
            names, metadata = file.schema_arrow.names, file.metadata
            columns = list(dict.fromkeys(wanted)) if wanted and set(wanted) <= set(names) else None
            done = 0
            for group in range(metadata.num_row_groups):
                about = metadata.row_group(group)
                a_row = about.total_byte_size / max(about.num_rows, 1)
                rows = min(max(int(size / max(a_row, 1)), 1), MAX_ROWS)
                for batch in file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False):
                    done += batch.num_rows
                    yield pl.DataFrame(pl.from_arrow(batch)), done / metadata.num_rows
    except (OSError, pa.ArrowException, *POLARS_ERRORS) as error:
        raise not_parquet(path, error) from None
