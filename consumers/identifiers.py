"""Quoting of SQL names. Pure."""


def quoted(name: str) -> str:
    """An SQL identifier, safe whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """An SQL string, safe whatever it holds."""
    return "'" + text.replace("'", "''") + "'" if "\\" not in text else " E'" + _escaped(text) + "'"


def doubled(sql: str) -> str:
    """SQL that holds no placeholder, for a statement that has some: to psycopg, a single % begins one there."""
    return sql.replace("%", "%%")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "''")
