"""Texts of the examples, read from their archives."""

import io
import json
import tarfile
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from tests.examples.conftest import example


def mail(*parts: tuple[str, str], encoding: str = "7bit", **headers: str) -> str:
    message = EmailMessage()
    for name, value in headers.items():
        message[name] = value
    for number, (kind, text) in enumerate(parts):
        add = message.set_content if number == 0 else message.add_alternative
        add(text, subtype=kind, cte=encoding)
    return message.as_string()


def test_only_the_body_of_a_mail_is_read() -> None:
    found = example("mails").body(mail(("plain", "Dear\n\n  all,\tgood day"), Subject="Secret", X_Spam="yes"))
    assert found == "Dear all, good day"


@pytest.mark.parametrize("encoding", ["quoted-printable", "base64"])
def test_bodies_are_decoded(encoding: str) -> None:
    assert example("mails").body(mail(("plain", "naïve café"), encoding=encoding)) == "naïve café"


def test_pages_lose_tags_scripts_and_styles() -> None:
    page = "<html><head><style>p {x}</style></head><p>One<br>two &amp; <b>three</b><script>run()</script></p></html>"
    body = example("mails").body
    assert body(mail(("html", page))) == "One two & three"
    assert body(mail(("plain", page))) == "One two & three"  # spam is often HTML that is declared as plain text
    assert body(mail(("plain", "plain it is"), ("html", page))) == "plain it is"


def test_a_mail_with_an_unknown_character_set_is_decoded() -> None:
    text = 'Content-Type: text/plain; charset="none"\nContent-Transfer-Encoding: quoted-printable\n\ncaf=E9'
    assert example("mails").body(text) == "café"


def test_mails_and_sentences_are_read_from_their_archives(tmp_path: Path) -> None:
    mails = {f"package/data/{group}/{i}.json": group for i, group in enumerate(["spam-2", "easy-ham-1", "elsewhere"])}
    content = {name: json.dumps({"text": mail(("plain", f"from {group}"))}) for name, group in mails.items()}
    read = list(example("mails").read_mails(archive(tmp_path / "mails.tgz", content)))
    assert read == [("from easy-ham-1", "ham"), ("from spam-2", "spam")]
    sentences = example("sentences")
    lines = "\ufeff1\t2.5\tVery  good\r\n2\t-0.5\tSo so\r\n3\t-0.51\tPoor\r\n"
    inner = archive(tmp_path / "inner.tgz", {sentences.FILE: lines})
    outer = archive(tmp_path / "outer.tgz", {sentences.INNER: inner.read_bytes()})
    assert list(sentences.read_sentences(outer)) == [("Very good", "positive"), ("Poor", "negative")]


def archive(path: Path, files: dict[str, Any]) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for name, content in files.items():
            raw = content if isinstance(content, bytes) else content.encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(raw)
            packed.addfile(entry, io.BytesIO(raw))
    return path
