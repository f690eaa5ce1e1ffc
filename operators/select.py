"""Select: which rows of a table a pass works on, and which of their columns; by Arrow, before any audio is touched."""

import pyarrow as pa
import pyarrow.compute as pc


def has_ids(table: pa.Table | pa.RecordBatch) -> pa.Array:
    """Return for each row whether it has an utt_id and a speaker_id that are not empty."""
    names = [table[name].cast(pa.string()) for name in ("utt_id", "speaker_id")]
    return pc.and_(*(pc.greater(pc.fill_null(pc.binary_length(column), 0), 0) for column in names))


class Select:
    """Keeps rows with an utt_id that is not in `excluded` (and is in `only`, where given), and the named columns.

    Columns in `columns` that the table lacks come out as null strings, so that every view of a corpus has one schema;
    `view` is written into a column of that name.
    """

    def __init__(
        self,
        view: str,
        columns: tuple[str, ...],
        excluded: frozenset[str] = frozenset(),
        only: frozenset[str] | None = None,
    ) -> None:
        self.view = view
        self.columns = columns
        self.excluded = pa.array(sorted(excluded), pa.string())
        self.only = None if only is None else pa.array(sorted(only), pa.string())

    def __call__(self, table: pa.Table) -> pa.Table:
        ids = table["utt_id"].cast(pa.string())
        keep = pc.and_(has_ids(table), pc.invert(pc.is_in(ids, self.excluded)))
        if self.only is not None:
            keep = pc.and_(keep, pc.is_in(ids, self.only))
        kept = table.filter(keep)
        columns = {"view": pa.array([self.view] * len(kept), pa.string())}
        for name in self.columns:
            if name in kept.column_names:
                column = kept[name]
                columns[name] = column if name == "audio" else column.cast(pa.string())
            else:
                columns[name] = pa.nulls(len(kept), pa.string())
        return pa.table(columns)
