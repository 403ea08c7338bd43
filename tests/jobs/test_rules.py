"""Rules by themselves: what they keep, what they change, and what they refuse."""

from __future__ import annotations

import hmac
import random
import re
from decimal import Decimal

import pytest

from shardpool.bulk.chunk import Rows
from shardpool.bulk.file_sink import to_csv
from shardpool.bulk.values import NULL, BadValue, to_field, to_text
from shardpool.jobs.anonymise import rules
from shardpool.jobs.anonymise.change import Change, Fake, Mask, Period, Prefix, Scrub, Step, addresses
from shardpool.jobs.anonymise.pseudonym import ByteaPseudonym, Permutation, Token, UuidPseudonym
from shardpool.jobs.anonymise.rules import Noise, PerValue, Shuffle
from shardpool.jobs.anonymise.secret import Keyed

KEYED = Keyed(b"a secret of sixteen bytes")


def test_a_permutation_maps_each_number_to_another_one() -> None:
    for bits in (1, 2, 7, 8, 15):
        permutation = Permutation(KEYED, bits)
        assert sorted(permutation.of(range(1 << bits))) == list(range(1 << bits))


def test_pseudonyms_do_not_change_between_versions() -> None:
    """Copies of different days are joined by them."""
    assert Permutation(KEYED, 63)("42") == "6090653983525116418"
    assert Permutation(KEYED, 31)("-42") == "-659465042"
    assert Token(KEYED)("Anna") == "2tfwdw7esioqoyzegfg2kbzoin"
    assert UuidPseudonym(KEYED)("00000000-0000-4000-8000-000000000001") == "282af16e-5d1f-893c-8111-5dab6ca1260a"


def test_signs_and_widths() -> None:
    permutation = Permutation(KEYED, 31)
    assert all(int(permutation(str(-n))) < 0 for n in range(1, 200))
    assert all(0 <= int(permutation(str(n))) < 1 << 31 for n in range(200))
    with pytest.raises(BadValue):
        permutation(str(1 << 31))


def test_the_secret_and_the_domain_decide() -> None:
    found = {
        Token(keyed.domain(domain))("x")
        for keyed in (KEYED, Keyed(b"another secret, 16 bytes"))
        for domain in ("a", "b")
    }
    assert len(found) == 4
    assert "sixteen" not in repr(KEYED)


@pytest.mark.parametrize("value", ["tab\t", "line\n", "back\\slash", "\\N", "", "ö€😀", "\b\f\r\v"])
def test_fields_are_read_as_they_are_written(value: str) -> None:
    assert to_text(to_field(value)) == value
    assert b"\t" not in to_field(value)
    assert b"\n" not in to_field(value)


@pytest.mark.parametrize("length", [16, 63, 64, 65, 200])
def test_the_hash_is_hmac(length: int) -> None:
    secret, data = bytes(range(length)), b"a value"
    assert Keyed(secret).digest(data) == hmac.digest(secret, data, "sha256")


def test_null_stays_null() -> None:
    assert PerValue(Prefix(2)).apply([NULL, b"abc", b"\\\\N", NULL], [b""] * 4) == [NULL, b"ab", b"\\\\N", NULL]
    assert PerValue(Prefix(2)).apply([NULL], [b""]) == [NULL]


VALUES = ["Anna", "", "--", "anna@mail.example", "Ä 1", "x" * 40, "0", "-7", "+49 30 1234567", "2024-02-03", "Zoë"]
CHANGES: list[Change] = [
    Mask(KEYED),
    Mask(KEYED, keep_last=2),
    Mask(KEYED, sign="*"),
    Token(KEYED),
    Token(KEYED, 16, mail=True),
    Scrub(KEYED),
    Prefix(3),
    UuidPseudonym(KEYED),
    ByteaPseudonym(KEYED),
    Fake(KEYED, ["Anna", "Berta", "Clara"]),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda it: type(it).__name__)
def test_many_values_change_as_one_by_one(change: Change) -> None:
    """Those with escapes among them, and each again, when it is known."""
    values = [*VALUES, "back\\slash 12", "call\t030 1234567", *VALUES[::2]]
    rule = PerValue(change)
    for _ in range(2):
        assert rule.apply([to_field(it) for it in values], []) == [to_field(change(it)) for it in values]
    for value in VALUES:
        assert change.fields([value.encode()]) == [to_field(change(value))]


def test_what_is_known_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "CACHE_ENTRIES", 10)
    rule = PerValue(Prefix(3))
    for start in range(0, 100, 8):
        column = [b"%05d" % n for n in range(start, start + 8)] * 2
        assert rule.apply(column, []) == [it[:3] for it in column]
        assert len(rule._known) <= 10


def test_masks_do_not_change_between_versions() -> None:
    found = [Mask(KEYED)(it) for it in ("+49 30 1234567", "Ab-1", "x" * 40)]
    assert found == ["+35 61 1823684", "Xu-7", "gbbjtcrhozxtzybrxxmcoiymkebivszfteqgpnyd"]
    for text in ("Abc 123-9", "Äbc ²23-9"):
        masked = Mask(KEYED)(text)
        assert masked.isascii()
        assert [it.isupper() for it in masked] == [it.isupper() for it in text]
        assert [it.isdigit() for it in masked] == [it.isdigit() for it in text]


def test_masks() -> None:
    for text in ("AB-12 cd", "4111 1111 1111 1111", "x"):
        masked = Mask(KEYED)(text)
        assert masked != text
        assert [(it.isdigit(), it.isalpha(), it.isupper()) for it in masked] == [
            (it.isdigit(), it.isalpha(), it.isupper()) for it in text
        ]
    assert Mask(KEYED, keep_last=4, sign="*")("4111 1111 1111 1234") == "**** **** **** 1234"
    assert Mask(KEYED, keep_last=4, sign="*")("123") == "***"
    assert Mask(KEYED)("--") == "--"


@pytest.mark.parametrize(
    "text",
    ["+49 151 2345678", "(030) 123456-78", "0049-30-1234567", "555 123 4567", "5551234567", "030/1234567"],
)
def test_telephone_numbers_are_scrubbed(text: str) -> None:
    scrubbed = Scrub(KEYED)(f"call {text}!")
    assert text not in scrubbed
    assert len(scrubbed) == len(f"call {text}!")


@pytest.mark.parametrize("text", ["a.b@c.de", "A_B+tag@sub.example.co.uk", "o'neil@x.org"])
def test_addresses_are_scrubbed(text: str) -> None:
    scrubbed = Scrub(KEYED)(f"<{text}>, {text.upper()}")
    assert text not in scrubbed
    assert len(set(scrubbed.replace("<", "").replace(">", "").split(", "))) == 1


@pytest.mark.parametrize("text", ["2024-01-31", "order 123456", "3.14159", "room 12, floor 3", "v1.2.3"])
def test_other_texts_stay(text: str) -> None:
    assert Scrub(KEYED)(text) == text


@pytest.mark.parametrize(
    ("to", "value", "expected"),
    [
        ("year", "1987-06-05", "1987-01-01"),
        ("decade", "1987-06-05", "1980-01-01"),
        ("quarter", "1987-06-05 10:00:00.5+02", "1987-04-01 00:00:00+02"),
        ("month", "1987-06-05 10:00:00", "1987-06-01 00:00:00"),
        ("decade", "0007-06-05", "0001-01-01"),
    ],
)
def test_periods(to: str, value: str, expected: str) -> None:
    assert Period(to)(value) == expected


@pytest.mark.parametrize("value", ["infinity", "0044-03-15 BC", "12024-01-01"])
def test_dates_of_other_calendars_are_refused(value: str) -> None:
    with pytest.raises(BadValue):
        Period("year")(value)


def test_steps() -> None:
    assert [Step(Decimal(10))(it) for it in ("17", "-3", "9.99", "20")] == ["10", "-10", "0", "20"]
    with pytest.raises(BadValue):
        Step(Decimal(10))("NaN")


def test_noise_differs_by_row_and_always_changes() -> None:
    noise = Noise(KEYED, percent=Decimal(10))
    keys = [b"%d" % n for n in range(500)]
    changed = [Decimal(it.decode()) for it in noise.apply([b"100.00"] * 500, keys)]
    assert Decimal("100.00") not in changed
    assert all(Decimal(90) <= it <= Decimal(110) for it in changed)
    assert len(set(changed)) > 100
    assert 98 < sum(changed) / 500 < 102
    days = Noise(KEYED, days=30).apply([b"2024-02-29"] * 500, keys)
    assert b"2024-02-29" not in days
    assert min(days) >= b"2024-01-30"
    assert max(days) <= b"2024-03-30"


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("-0.05", "-0.06", "-0.04"),
        ("7", "6", "8"),
        ("-3", "-4", "-2"),
        ("0.00", "-0.01", "0.01"),
        ("1e+20", "9e+19", "1.1e+20"),
        ("123456789012345678901234567890.5", "1.1e29", "1.4e29"),
    ],
)
def test_noise_on_numbers_of_any_form(value: str, least: str, most: str) -> None:
    keys = [b"%d" % n for n in range(100)]
    changed = [it.decode() for it in Noise(KEYED, percent=Decimal(10)).apply([value.encode()] * 100, keys)]
    assert all(Decimal(least) <= Decimal(it) <= Decimal(most) for it in changed)
    assert Decimal(value) not in map(Decimal, changed)
    assert {len(it.partition(".")[2]) for it in changed} == {len(value.partition(".")[2])}
    assert changed == [it.decode() for it in Noise(KEYED, percent=Decimal(10)).apply([value.encode()] * 100, keys)]
    with pytest.raises(BadValue):
        Noise(KEYED, amount=Decimal(1)).apply([b"NaN"], [b"1"])


def test_shuffling_keeps_the_values_and_moves_all() -> None:
    column = [b"%d" % n for n in range(100)]
    shuffled = Shuffle(KEYED, nullable=False).apply(column, column)
    assert sorted(shuffled) == sorted(column)
    assert all(one != other for one, other in zip(column, shuffled, strict=True))
    assert Shuffle(KEYED, nullable=True).apply([b"x"], [b"k"]) == [NULL]
    with pytest.raises(BadValue):
        Shuffle(KEYED, nullable=False).apply([b"x"], [b"k"])


def test_csv_tells_null_from_nothing() -> None:
    records = [b"\t".join([to_field(value), NULL]) for value in ("", 'say "a, b"', "line\nbreak", "\\.", "ö")]
    data = to_csv(Rows("t", ("a", "b"), records, str)).decode()
    assert data == 'a,b\n"",\n"say ""a, b""",\n"line\nbreak",\n"\\.",\nö,\n'


def test_tokens_of_many_texts_differ() -> None:
    choose = random.Random(5)
    values = {"".join(choose.choices("abc", k=6)) for _ in range(300)}
    assert len({Token(KEYED)(it) for it in values}) == len(values)


EMAIL = re.compile(r"[A-Za-z0-9._%+'-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")


def test_addresses_are_those_of_a_pattern() -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    choose = random.Random(seed)
    texts = ["a@b.com_c@d.org", "a@b.com..x@d.org", "@b.com@d.org", "a@b", "@", "", "a@-.-é@b.c", "it's@a.b.@c.d"]
    texts += ["".join(choose.choices("a.-@_ é", (4, 3, 1, 3, 1, 1, 1), k=choose.randrange(30))) for _ in range(3000)]
    for text in texts:
        assert list(addresses(text)) == [match.span() for match in EMAIL.finditer(text)], text


@pytest.mark.parametrize("part", ["x", "é", "1", "x.", "1 ", "@", "@x", "(", "\\"])
def test_very_long_values(part: str) -> None:
    """Each is read a few times, and not once for each of its letters: that would be hours."""
    field = to_field(part * (200_000 // len(part)))
    for mask in (Mask(KEYED), Mask(KEYED, keep_first=1, keep_last=1)):
        masked, _, again = PerValue(mask).apply([field, NULL, field], [b""] * 3)
        assert masked == again
        assert len(to_text(masked)) == len(to_text(field))
        assert (masked != field) == any(map(str.isalnum, part))
    (scrubbed,) = PerValue(Scrub(KEYED)).apply([field], [b""])
    assert (scrubbed != field) == (part in ("1", "1 "))


def test_long_values_are_not_kept() -> None:
    rule = PerValue(Mask(KEYED))
    assert rule.apply([b"a" * 1000, b"b", b"a" * 1000], [b""] * 3)[0] != b"a" * 1000
    rule.apply([b"short"] * 2, [b""] * 2)
    assert set(rule._known) == {NULL, b"short"}
