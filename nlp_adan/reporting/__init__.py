"""Reports: one document model, rendered as Markdown, as one HTML page, and as JSON."""

from nlp_adan.reporting.document import (
    Column,
    Document,
    Image,
    Note,
    Paragraph,
    Section,
    Table,
    write_report,
)

__all__ = ["Column", "Document", "Image", "Note", "Paragraph", "Section", "Table", "write_report"]
