"""A reader of HTML pages."""

import html.parser


class Page(html.parser.HTMLParser):
    """Open elements, and whatever could reach out of the file."""

    VOID = {"meta", "line", "circle", "polygon", "polyline", "br"}

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.links, self.counts = [], [], [], {}

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        references = [
            value for name, value in attrs if name in ("src", "href", "xlink:href", "action", "srcset", "data")
        ]
        (self.links if tag == "a" else self.loads).extend(references)  # the reader clicks a link; nothing is loaded
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
