"""`paretrim apply RECIPE`: a recipe and the dense weights make the point again.

Channels are ranked and layers reconstructed on the data set that the search calibrated on, which
the recipe names: with the same weights and images the same point comes out, and its file is held to
the accuracy that the recipe promises. What training added cannot be made from dense weights: the
weights of a recovered point lie beside its recipe.

A recipe may come from a stranger: it is data, nothing in it is run, and it names no file to be
written.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from evaluators.score import Score
from evaluators.training.files import load_trained
from hw_models.errors import InputError
from search.deliver import IN_RECIPES, RECIPE_FORMAT, describe, make_recipe, write_verified
from search.export import check_min_score, find_format
from search.front import RECOVERED, Point
from search.problem import Problem, prepare
from search.progress import start_logging
from search.recover.weights import WEIGHTS, compressed
from search.run import read_settings
from spaces.candidate import Candidate
from spaces.formats.interface import Compressed

log = logging.getLogger(__name__)

LARGEST_BYTES = 16 << 20
LARGEST_IMGSZ = 4096
BUDGETS = {"latency": ("100%",), "energy": None, "size": None, "max_drop": None}
"""Budgets chose the point; they do not decide what it is."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe that was read.

    Attributes:
        id: Name of the point.
        settings: Of the search, as far as they decide what the point is.
        candidate: What is compressed and how.
        score: Accuracy that is promised.
        weights_digest: Of the dense model.
        protocol: Digest of weights, images and criterion.
        model_digest: Of the compressed model.
        trained_digest: Of the trained weights beside the recipe of a recovered point, or None.
        recovered: What the recipe says about the training, or None.
    """

    id: str
    settings: dict[str, Any]
    candidate: Candidate
    score: Score
    weights_digest: str
    protocol: str
    model_digest: str
    trained_digest: str | None
    recovered: dict[str, Any] | None


def apply(
    path: Path,
    given: Mapping[str, Any],
    format_name: str,
    min_score: float | None,
    output: Path,
    console: Console,
) -> None:
    """Make the point of a recipe again and export it.

    Args:
        path: recipe.json.
        given: Settings that replace those of the recipe: weights, data, trust_checkpoint.
        format_name: See `search.export.export`.
        min_score: See `Format.write`.
        output: Folder for the files.
        console: Where the result is told.

    Raises:
        InputError: The recipe cannot be read, or weights or data are not those it was made for.
        CorruptRunError: The file is not what the recipe promises.
    """
    start_logging(console)
    check_min_score(min_score)
    recipe = read_recipe(path)
    problem = prepare(read_settings({**recipe.settings, **given, **BUDGETS}))
    _check_fit(recipe, problem, path)
    form = find_format(format_name, problem)
    model = _make(recipe, problem, path)
    candidate = recipe.candidate
    method = RECOVERED if recipe.recovered else problem.settings.method
    point = Point(recipe.id, method, candidate, problem.cost(candidate), recipe.score)
    content = make_recipe(problem, point, model)
    if recipe.recovered is not None:
        content["recovered"] = recipe.recovered
    verified = write_verified(form, output, problem, point, model, content, min_score=min_score)
    same = model.detector.digest == recipe.model_digest
    console.print(f"{recipe.id}: {describe(verified, point)}")
    console.print("Its weights are those of the recipe, bit for bit." if same else
                  "Its weights differ in the last digits from those of the recipe: made by other"
                  " versions or another processor.")  # fmt: skip
    console.print(f"Files:  {output}")


def read_recipe(path: Path) -> Recipe:
    """Read a recipe and check its form.

    Raises:
        InputError: The file is no recipe of paretrim.
    """
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes, more than any recipe has")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != RECIPE_FORMAT:
            raise ValueError(f"expected the format {RECIPE_FORMAT}")
        recovered = content.get("recovered")
        recipe = Recipe(
            id=_plain(content["id"]),
            settings=_settings(content["settings"]),
            candidate=Candidate.from_dict(content["candidate"]),
            score=Score.from_dict(content["score"]),
            weights_digest=str(content["weights_digest"]),
            protocol=str(content["protocol"]),
            model_digest=str(content["model_digest"]),
            trained_digest=None if recovered is None else str(recovered["weights_digest"]),
            recovered=recovered,
        )
        if not 32 <= recipe.candidate.imgsz <= LARGEST_IMGSZ:
            raise ValueError(f"imgsz {recipe.candidate.imgsz}, not 32 to {LARGEST_IMGSZ}")
        if recipe.score.map50_95 is None:
            raise ValueError("no map50_95 in score")
    except (OSError, KeyError, TypeError, ValueError, RecursionError, InputError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise InputError(
            f"{path}: not a recipe that `paretrim export` or `paretrim search` wrote ({reason}).",
            "Give the recipe.json beside an exported model, unchanged.",
        ) from error
    return recipe


def _plain(name: Any) -> str:
    if not isinstance(name, str) or not name.isalnum():
        raise ValueError(f"expected an id of letters and digits, got {str(name)[:50]!r}")
    return name


def _settings(content: Any) -> dict[str, Any]:
    """Return the settings of a recipe, refusing those that are the user's own to give."""
    if not isinstance(content, dict):
        raise TypeError(f"expected settings, got {type(content).__name__}")
    refused = sorted(content.keys() - IN_RECIPES)
    if refused:
        raise ValueError(f"a recipe may not set {', '.join(refused)}")
    return dict(content)


def _check_fit(recipe: Recipe, problem: Problem, path: Path) -> None:
    """Refuse weights and data that the recipe was not made for."""
    if problem.detector.digest != recipe.weights_digest:
        raise InputError(
            f"{path} was made for weights with the digest {recipe.weights_digest[:12]}...;"
            f" {problem.settings.weights} has {problem.detector.digest[:12]}...",
            "Give the dense weights that were searched with --weights.",
        )
    if problem.protocol != recipe.protocol:
        raise InputError(
            f"{path} was made with other images, or another version of paretrim, than"
            f" {problem.settings.data} has now: channels would be ranked otherwise and the promised"
            " accuracy could not be checked.",
            "Give the data set of the search with --data, as it was then.",
        )


def _make(recipe: Recipe, problem: Problem, path: Path) -> Compressed:
    if recipe.trained_digest is None:
        return problem.build().compressed(recipe.candidate)
    trained = load_trained(path.with_name(WEIGHTS))
    if trained.detector.digest != recipe.trained_digest:
        raise InputError(
            f"{path.with_name(WEIGHTS)} is not the file that {path} describes: expected the digest"
            f" {recipe.trained_digest[:12]}..., got {trained.detector.digest[:12]}...",
            "Keep the recipe and the weights of a recovered point together.",
        )
    return compressed(problem, trained, recipe.candidate)
