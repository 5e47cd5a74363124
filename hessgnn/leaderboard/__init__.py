"""From records to one HTML page, Markdown, CSV and JSON."""
