"""One result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True)
class Finding:
    """`subject` is a shard's name or ``keyspace``; `hint` says what to do about it."""

    check: str
    subject: str
    state: State
    detail: str
    hint: str = ""


def ok(check: str, subject: str, detail: str) -> Finding:
    return Finding(check, subject, "ok", detail)


def warning(check: str, subject: str, detail: str, hint: str) -> Finding:
    return Finding(check, subject, "warning", detail, hint)


def wrong(check: str, subject: str, detail: str, hint: str) -> Finding:
    return Finding(check, subject, "wrong", detail, hint)
