"""Log sequence numbers: 64-bit positions in PostgreSQL's write-ahead log.

Inside the program an LSN is a plain `int`, because it is compared and stored for every change; the text form
`16/B374D848` (https://www.postgresql.org/docs/current/datatype-pg-lsn.html) appears only at the edges. Pure.
"""

import re

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def parse_lsn(text: str) -> int:
    """The integer of PostgreSQL's `X/Y` form. Raises ValueError for anything else."""
    halves = _TEXT.fullmatch(text)
    if halves is None:
        raise ValueError(f"not an LSN: {text!r}")
    return int(halves[1], 16) << 32 | int(halves[2], 16)


def format_lsn(lsn: int) -> str:
    """PostgreSQL's `X/Y` form of an LSN."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
