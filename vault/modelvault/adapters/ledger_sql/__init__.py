"""The ledger in a SQL database: `SqlLedger`.

One schema and one set of statements for all dialects. What is SQLite's alone (pragmas, file modes,
the stamp in the file's header) stands in `sqlite.py`.
"""

from modelvault.adapters.ledger_sql.ledger import SqlLedger

__all__ = ["SqlLedger"]
