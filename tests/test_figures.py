"""Figures as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.figures import (
    ago,
    amount_text,
    clock,
    count_text,
    data_rate,
    duration,
    layers,
    layers_text,
    micros,
    part_of,
    percent,
    short,
    size_text,
    time_left,
    token_rate,
)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1_000, "1 kB"), (1_500_000, "1.5 MB"),
        (134_515_008, "135 MB"), (999_949_999, "1 GB"), (999_400_000, "999 MB"), (4 * 10**9, "4 GB"),
        (24_000_000_000, "24 GB"), (1_200_000_000_000, "1.2 TB"), (5 * 10**15, "5,000 TB"),
    ],
)  # fmt: skip
def test_sizes_have_the_digits_that_people_need(nbytes: int, text: str) -> None:
    assert size_text(nbytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"), (0, "0 s"), (-1, "0 s"), (0.000_85, "850 µs"), (0.0082, "8.2 ms"), (0.02, "20 ms"),
        (0.42, "420 ms"), (0.99999, "1 s"), (1.4, "1.4 s"), (59.9, "59.9 s"), (59.99, "1 min"), (200, "3 min 20 s"),
        (3599.9, "1 h"), (3900, "1 h 5 min"), (100_000, "27 h 46 min"),
    ],
)  # fmt: skip
def test_durations_have_the_unit_that_fits_them(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
    if seconds is not None:
        assert micros(seconds * 1e6) == text


@given(st.integers(0, 10**18))
def test_no_size_or_duration_is_told_as_a_thousand_of_a_unit(count: int) -> None:
    for text in (size_text(count), count_text(count), micros(count)):
        figure, _, unit = text.partition(" ")
        assert float(figure.replace(",", "")) < 1000 or unit.split(" ")[0] in ("TB", "T", "h"), text


def test_parts_have_the_unit_of_the_whole() -> None:
    assert part_of(8_200, 11_500) == "8.2 of 11.5 ms"
    assert amount_text(1_200_000_000, 4_000_000_000) == "1.2 of 4 GB"
    assert amount_text(900_000_000, 4_000_000_000) == "900 MB of 4 GB"
    assert amount_text(0, 4_000_000_000) == "0 of 4 GB"


def test_rates_shares_counts_and_guesses_are_short() -> None:
    assert (data_rate(120_500_000), token_rate(310.4), token_rate(23.44)) == (
        "120 MB/s",
        "310 tokens/s",
        "23.4 tokens/s",
    )
    assert (percent(0.714), percent(0.001), percent(0)) == ("71 %", "under 1 %", "0 %")
    assert [count_text(n) for n in (12, 1_200, 134_515_008, 8_000_000_000)] == ["12", "1.2 k", "135 M", "8 B"]
    assert (time_left(0.2), time_left(12.4), time_left(200)) == ("1 s", "12 s", "3 min 20 s")


def test_layers_are_counted_with_both_ends() -> None:
    assert (layers(0, 15), layers(7, 8), layers_text(0, 15), layers_text(7, 8)) == (
        "layers 0–14", "layer 7", "0–14", "7",
    )  # fmt: skip


def test_an_age_is_told_in_its_greatest_unit() -> None:
    now = datetime.now(UTC)
    ages = (timedelta(seconds=-5), timedelta(seconds=1), timedelta(seconds=12), timedelta(minutes=3, seconds=5))
    assert [ago(now - age, now) for age in ages] == ["now", "now", "12 s ago", "3 min ago"]
    assert [ago(now - timedelta(hours=47), now), ago(now - timedelta(days=2), now)] == ["1 d ago", "2 d ago"]
    assert ago(None) == "never"


def test_a_moment_of_another_day_has_its_date() -> None:
    now = datetime.now(UTC)
    assert len(clock(now)) == len("14:03:27")
    assert clock(now - timedelta(days=3)).startswith((now - timedelta(days=3)).astimezone().strftime("%Y-%m-%d "))


def test_a_text_is_cut_to_one_line() -> None:
    assert short("one\n two", 80) == "one two"
    assert short("a" * 20, 8) == "a" * 7 + "…"
