"""The forms of a diagnosis document for people: terminal, Markdown, one HTML page. All read the document alone."""
