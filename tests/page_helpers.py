"""A page of HTML taken apart."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """The elements of a page, each with its attributes and its text, and the text in between."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", "inside": [other["tag"] for other in self.open], **dict(attributes)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, *tags):
        return [element for element in self.elements if element["tag"] in tags]

    def texts(self, *tags):
        """Texts, in the hyphens of files instead of minus signs."""
        return [" ".join(each["text"].replace("\N{MINUS SIGN}", "-").split()) for each in self.all(*tags)]

    def table(self, title):
        """Rows of the table of that title as lists of texts."""
        start = next(n for n, each in enumerate(self.elements) if each["tag"] == "caption" and title in each["text"])
        rows = []
        for element in self.elements[start:]:
            if element["tag"] == "table":
                break
            if element["tag"] == "tr":
                rows.append([])
            elif element["tag"] in ("th", "td"):
                rows[-1].append(" ".join(element["text"].replace("\N{MINUS SIGN}", "-").split()))
        return rows
