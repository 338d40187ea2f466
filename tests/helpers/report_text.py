"""What a report.html says, read back."""

from html.parser import HTMLParser


def report_text(html: str) -> dict[str, str]:
    """Extract what a report says, by section, without pictures and what belongs to them."""
    reader = _Text()
    reader.feed(html)
    return {key: " ".join(words.split()) for key, words in reader.sections.items()}


class _Text(HTMLParser):
    """Text of each section; a <details> counts with its summary alone."""

    def __init__(self) -> None:
        super().__init__()
        self.sections = {"top": ""}
        self.section = "top"
        self.silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a section, or what is not read."""
        if tag == "h2":
            self.section = dict(attrs)["id"] or ""
            self.sections[self.section] = ""
        elif tag in ("script", "style", "nav", "aside"):
            self.silent += 1

    def handle_endtag(self, tag: str) -> None:
        """End what is not read: after a summary the picture follows."""
        if tag in ("script", "style", "nav", "aside", "details"):
            self.silent -= 1
        elif tag == "summary":
            self.silent += 1

    def handle_data(self, data: str) -> None:
        """Collect the text."""
        if not self.silent:
            self.sections[self.section] += data + " "
