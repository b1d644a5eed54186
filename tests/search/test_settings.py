from __future__ import annotations

import pytest

from hw_models.errors import InputError
from search.run import read_settings
from search.settings import Settings, parse_budget, parse_duration_s


@pytest.mark.parametrize(
    ("text", "dimension", "value", "relative"),
    [
        ("30ms", "latency", 30.0, False),
        ("0.03s", "latency", 30.0, False),
        ("750us", "latency", 0.75, False),
        ("75%", "latency", 0.75, True),
        ("200mJ", "energy", 200.0, False),
        ("0.2J", "energy", 200.0, False),
        ("5MB", "size", 5e6, False),
        (".5MB", "size", 5e5, False),
    ],
)
def test_budgets(text: str, dimension: str, value: float, relative: bool) -> None:
    budget = parse_budget(text, dimension)  # type: ignore[arg-type]
    assert budget.value == pytest.approx(value)
    assert budget.relative is relative
    assert budget.text == text


def test_relative_budgets_resolve_against_dense() -> None:
    assert parse_budget("60%", "latency").resolve(50.0) == pytest.approx(30.0)
    assert parse_budget("20ms", "latency").resolve(50.0) == 20.0


@pytest.mark.parametrize("text", ["", "fast", "-3ms", "0ms", "30", "30kg", "nanms", "3 4ms"])
def test_wrong_budgets_say_what_is_expected(text: str) -> None:
    with pytest.raises(InputError, match="30ms") as caught:
        parse_budget(text, "latency")
    assert text in str(caught.value)


def test_a_missing_unit_is_guessed_in_the_hint() -> None:
    with pytest.raises(InputError, match="Did you mean --latency 30ms"):
        parse_budget("30", "latency")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("8h", 28800)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["8", "h", "-1h", "8 days"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(InputError, match="--time-budget"):
        parse_duration_s(text)


def test_settings_survive_their_own_dump() -> None:
    settings = read_settings({"latency": ("30ms", "60%"), "size": "5MB", "imgsz": (320, 416)})
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({}, "--latency is missing"),
        ({"latency": ("30",)}, "unit is missing"),
        ({"latency": ("30ms",), "evals": 0}, "--evals"),
        ({"latency": ("30ms",), "method": "magic"}, "--method"),
        ({"latency": ("30ms",), "max_drop": 2.0}, "--max-drop"),
        ({"latency": ("30ms",), "time_budget_s": "soon"}, "--time-budget"),
    ],
)
def test_wrong_settings_name_the_option(given: dict[str, object], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        read_settings(given)
