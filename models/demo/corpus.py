#!/usr/bin/env python3
"""Plain text of two permissively licensed documentation packages, split into train.txt and held.txt.

Needs the HTML of Debian's postgresql-doc-15 and python3.11-doc under /usr/share/doc.
"""
import glob
import html.parser
import random
import re

PATTERNS = ("/usr/share/doc/postgresql-doc-15/html/*.html", "/usr/share/doc/python3.11/html/**/*.html")
HELD_OUT_CHARACTERS = 250_000
SKIPPED = {"script", "style", "nav", "pre", "table"}
PARAGRAPHS = {"p", "li", "dd", "dt"}


class Paragraphs(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.pieces, self.skip, self.inside = [], [], 0, False

    def handle_starttag(self, tag, attributes):
        if tag in SKIPPED:
            self.skip += 1
        elif tag in PARAGRAPHS and not self.skip:
            self.flush()
            self.inside = True

    def handle_endtag(self, tag):
        if tag in SKIPPED:
            self.skip = max(0, self.skip - 1)
        elif tag in PARAGRAPHS:
            self.flush()
            self.inside = False

    def handle_data(self, data):
        if self.inside and not self.skip:
            self.pieces.append(data)

    def flush(self):
        text = re.sub(r"\s+", " ", " ".join(self.pieces)).strip()
        self.pieces = []
        text = re.sub(r" ([.,;:)])", r"\1", text).replace("( ", "(")
        if len(text) > 60 and text.count(" ") > 8 and "\u00b6" not in text:
            self.found.append(text)


def documents():
    for pattern in PATTERNS:
        for path in sorted(glob.glob(pattern, recursive=True)):
            if "genindex" in path or "whatsnew/changelog" in path:
                continue
            parser = Paragraphs()
            with open(path, encoding="utf8", errors="ignore") as page:
                parser.feed(page.read())
            parser.flush()
            text = "\n".join(dict.fromkeys(parser.found))
            if len(text) > 400:
                yield text


def main():
    texts = list(documents())
    if not texts:
        raise SystemExit("corpus.py: no documentation found; apt-get install postgresql-doc-15 python3.11-doc")
    random.Random(7).shuffle(texts)
    held = []
    while sum(map(len, held)) < HELD_OUT_CHARACTERS:
        held.append(texts.pop())
    for name, part in (("train.txt", texts), ("held.txt", held)):
        with open(name, "w", encoding="utf8") as out:
            out.write("\n\n".join(part))
    print(f"{len(texts)} documents to train on ({sum(map(len, texts)) / 1e6:.1f} MB), {len(held)} held out")


if __name__ == "__main__":
    main()
