"""``python -m foundation.settings`` prints the table in docs/settings.md."""

from foundation.settings import as_markdown

print(as_markdown())
