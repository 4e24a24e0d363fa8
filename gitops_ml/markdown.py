"""Plan and comparison as Markdown: one renderer for comment, report, job summary and terminal."""
