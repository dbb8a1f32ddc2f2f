"""A run as Markdown, HTML, JSON and JUnit. Nothing here measures."""
