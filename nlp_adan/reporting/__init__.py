"""Reports: one document model, rendered as Markdown, as one HTML page, and as JSON."""

from nlp_adan.reporting.document import (
    Code,
    Column,
    Document,
    Image,
    Note,
    Paragraph,
    Section,
    Table,
    write_report,
)

__all__ = ["Code", "Column", "Document", "Image", "Note", "Paragraph", "Section", "Table", "write_report"]
