"""Reading a CSV file with a header; quotation marks that don't pair are an error, as they would swallow rows."""

import csv
from collections.abc import Iterable


def read_table(lines: Iterable[str]) -> tuple[list[str], list[dict[str, str]]]:
    """Column names, and each row that is not blank by column name; names and cells without white space around them.

    Raises:
        ValueError: A quoted field has no proper end; names the line on which its row begins.
    """
    table = csv.reader(lines, skipinitialspace=True, strict=True)
    rows, line = [], 1
    try:
        for row in table:
            rows.append([cell.strip() for cell in row])
            line = table.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"line {line}: a quoted field does not end properly ({error}); remove the quotation mark, or write it "
            "twice within a field in quotation marks"
        ) from error
    names = rows[0] if rows else []
    return names, [dict(zip(names, row, strict=False)) for row in rows[1:] if row]
