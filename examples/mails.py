"""Mails of the SpamAssassin corpus as text: the body only, without HTML.

Headers are left out because they reveal the label: they name mailing lists, spam filters and years. Footers of mailing
lists, which reveal a little, too, are part of the body and stay.
"""

import json
import tarfile
from collections.abc import Iterator
from email import message_from_string
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path

from examples.splits import Labelled

GROUPS = {"easy-ham-1": "ham", "easy-ham-2": "ham", "hard-ham-1": "ham", "spam-1": "spam", "spam-2": "spam"}
"""The label of each folder of the corpus."""


class _Text(HTMLParser):
    """Collects the visible text of an HTML page."""

    unseen = ("script", "style", "title")

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.inside: str | None = None

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Start skipping at an invisible element; tags separate words."""
        if tag in self.unseen:
            self.inside = tag
        self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        """Stop skipping at the end of an invisible element."""
        if tag == self.inside:
            self.inside = None
        self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        """Keep visible text."""
        if self.inside is None:
            self.parts.append(data)


def visible(html: str) -> str:
    """The text of an HTML page, without tags, scripts and styles."""
    parser = _Text()
    parser.feed(html)
    parser.close()
    return "".join(parser.parts)


def body(mail: str) -> str:
    """The text of a mail's body, white space reduced to single spaces; empty if it has none.

    If the mail has several parts, the plain text parts are used, or the HTML parts if no plain part has text.
    """
    found: dict[str, list[str]] = {"text/plain": [], "text/html": []}
    for part in message_from_string(mail).walk():
        kind = part.get_content_type()
        if kind in found and not part.is_multipart():
            text = _decoded(part)
            # Spam is often HTML that is declared as plain text.
            page = kind == "text/html" or "<html" in text[:2000].lower()
            found[kind].append(visible(text) if page else text)
    plain, pages = (" ".join(" ".join(texts).split()) for texts in found.values())
    return plain or pages


def _decoded(part: Message) -> str:
    payload = part.get_payload()
    encoding = str(part.get("content-transfer-encoding", "")).strip().lower()
    if not isinstance(payload, str) or encoding not in ("base64", "quoted-printable"):
        return str(payload)  # already text: the corpus is stored as JSON
    raw = part.get_payload(decode=True)
    assert isinstance(raw, bytes)
    try:
        return raw.decode(part.get_content_charset("latin-1"), errors="replace")
    except LookupError:  # unknown character set
        return raw.decode("latin-1")


def read_mails(archive: Path) -> Iterator[Labelled]:
    """Yield the mails of the npm package, sorted by file name, without those that have no text."""
    with tarfile.open(archive) as files:
        members = {member.name: member for member in files.getmembers() if member.name.endswith(".json")}
        read = {}
        # In archive order, because a compressed archive can only be read from front to back.
        for name, member in members.items():
            group = Path(name).parent.name
            if group in GROUPS and (stream := files.extractfile(member)):
                read[name] = Labelled(body(json.load(stream)["text"]), GROUPS[group])
    yield from (read[name] for name in sorted(read) if read[name].text)
