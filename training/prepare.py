"""Check a data folder before training: `python -m training.prepare --cfg-path training/configs/NAME.yaml`.

Every annotation is read and its fields checked, every picture looked for, a few of each data set opened; of webdataset
shards, whose captions lie beside the pictures, only what is opened. Nothing is changed. Exit status 0 if training could
begin, 1 if not.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from models.errors import MiniVLMError
from training.data.annotations import DataError
from training.data.mixture import open_readers
from training.data.readers import Example, MissingImage, Reader, is_there
from training.recipe import DatasetRecipe, Recipe, load_recipe

MAX_SHOWN = 5  # errors, missing pictures and strange boxes named for each data set
_BOX = re.compile(r"\{(?:<-?\d+>){4}\}")


@dataclass
class Report:
    """What was found in one data set; `errors`, `missing` and `outside` (boxes) hold the first few as text."""

    format: str
    num_examples: int = 0
    num_missing: int = 0
    num_left_out: int = 0
    errors: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def add_missing(self, what: str) -> None:
        """Count a picture and name the first few."""
        self.num_missing += 1
        if len(self.missing) < MAX_SHOWN:
            self.missing.append(what)


def check_dataset(recipe: Recipe, dataset: DatasetRecipe, *, num_opened: int) -> Report:
    """Check one data set; stops after a few wrong annotations."""
    report = Report(dataset.format)
    try:
        (reader,) = open_readers(recipe, [dataset])
    except DataError as error:
        report.errors.append(str(error))
        return report
    report.num_examples = len(reader)
    report.num_left_out = reader.num_left_out
    if not reader.is_stream:
        _check_all(reader, report)
    _open_some(reader, report, num_opened)
    return report


def _check_all(reader: Reader, report: Report) -> None:
    for index in range(len(reader)):
        try:
            reader.check(index)
            paths = reader.image_paths(index)
        except DataError as error:
            report.errors.append(str(error))
            if len(report.errors) >= MAX_SHOWN:
                return
            continue
        for path in paths:
            if not is_there(path):
                report.add_missing(str(path))


def _open_some(reader: Reader, report: Report, count: int) -> None:
    rng = Random(0)
    for index in rng.sample(range(len(reader)), min(count, len(reader))):
        try:
            report.outside += boxes_outside(reader.example(index, rng), reader.image_path(index))
        except DataError as error:
            if str(error) not in report.errors:
                report.errors.append(str(error))
        except MissingImage as error:
            if all(is_there(path) for path in reader.image_paths(index)):  # else it is counted already
                report.add_missing(str(error))


def boxes_outside(example: Example, path: Path | None) -> list[str]:
    """Boxes that go beyond their picture. A few are normal and trained on, as in the originals; many mean that the
    pictures were made smaller after they were annotated."""
    boxes = _BOX.findall(" ".join((*example.questions, *example.answers)))
    beyond = [box for box in boxes if not all(0 <= int(number) <= 100 for number in re.findall(r"-?\d+", box))]
    return [f"box {box} goes beyond its picture {path}" for box in beyond]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.prepare", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cfg-path", type=Path, required=True, help="YAML of the stage")
    parser.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the YAML")
    parser.add_argument("--open", type=int, default=50, metavar="N", help="examples of each data set to open (50)")
    options = parser.parse_args(arguments)
    try:
        recipe = load_recipe(options.cfg_path, options.options)
    except MiniVLMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    reports = [
        check_dataset(recipe, dataset, num_opened=options.open)
        for dataset in (*recipe.data.datasets, *recipe.evaluation.datasets)
    ]
    print(f"{'data set':26}{'examples':>12}{'left out':>10}{'missing':>10}{'errors':>8}")
    for report in reports:
        print(
            f"{report.format:26}{report.num_examples:12}{report.num_left_out:10}{report.num_missing:10}"
            f"{len(report.errors):8}"
        )
    for report in reports:
        for text in (*report.errors, *(f"missing: {path}" for path in report.missing), *report.outside[:MAX_SHOWN]):
            print(f"{report.format}: {text}", file=sys.stderr)
    num_missing = sum(report.num_missing for report in reports)
    is_fine = not any(report.errors for report in reports) and num_missing <= recipe.data.max_missing_images
    print("Training can begin." if is_fine else "Training can't begin like this.")
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
