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

from models.command_line import place
from models.errors import MiniVLMError
from training.data.annotations import DataError
from training.data.formats import check_formats
from training.data.mixture import open_readers
from training.data.readers import DatasetReader, MissingImage, TrainingExample, is_there
from training.recipe import DatasetRecipe, Recipe, load_recipe

MAX_SHOWN = 5  # errors, missing pictures and strange boxes named for each data set
_BOX = re.compile(r"\{(?:<-?\d+>){4}\}")


@dataclass
class DatasetReport:
    """What was found in one data set; `errors`, `missing` and `outside` (boxes) hold the first few as text.

    `num_incomplete` of the `num_examples` lack a picture or have one that can't be read; `num_readable` of the
    `num_opened` could be opened. Of shards no example is looked at unless it is opened.
    """

    format: str
    is_stream: bool = False
    num_examples: int = 0
    num_missing: int = 0
    num_incomplete: int = 0
    num_opened: int = 0
    num_readable: int = 0
    num_left_out: int = 0
    errors: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def add_missing(self, what: str) -> None:
        """Count a picture and name the first few."""
        self.num_missing += 1
        if len(self.missing) < MAX_SHOWN:
            self.missing.append(what)

    def refusal(self, max_share: float) -> str | None:
        """Why training can't begin with the data set, if pictures of more than a share (0…1) of it are missing."""
        num_looked_at = self.num_opened if self.is_stream else self.num_examples
        if self.num_incomplete == num_looked_at > 0 or self.num_readable == 0 < self.num_opened:
            return "not one example can be used; are the pictures where `images` says?"
        if self.num_incomplete > max_share * num_looked_at:
            share = f"{self.num_incomplete} of {num_looked_at}"
            return f"{share} examples lack a picture, more than data.max_missing_share ({max_share:g}) allows."
        return None


def check_dataset(recipe: Recipe, dataset: DatasetRecipe, *, num_opened: int) -> DatasetReport:
    """Check one data set; stops after a few wrong annotations."""
    report = DatasetReport(dataset.format)
    try:
        (reader,) = open_readers(recipe, [dataset])
    except DataError as error:
        report.errors.append(str(error))
        return report
    report.is_stream, report.num_examples = reader.is_stream, len(reader)
    report.num_left_out = reader.num_left_out
    if not reader.is_stream:
        _check_all(reader, report)
    _open_some(reader, report, num_opened)
    return report


def _check_all(reader: DatasetReader, report: DatasetReport) -> None:
    for index in range(len(reader)):
        try:
            reader.check(index)
            paths = reader.image_paths(index)
        except DataError as error:
            report.errors.append(str(error))
            if len(report.errors) >= MAX_SHOWN:
                return
            continue
        missing = [path for path in paths if not is_there(path)]
        report.num_incomplete += bool(missing)
        for path in missing:
            report.add_missing(str(path))


def _open_some(reader: DatasetReader, report: DatasetReport, count: int) -> None:
    rng = Random(0)
    for index in rng.sample(range(len(reader)), min(count, len(reader))):
        report.num_opened += 1
        try:
            report.outside += boxes_outside(reader.example(index, rng), reader.image_path(index))
            report.num_readable += 1
        except DataError as error:
            if str(error) not in report.errors:
                report.errors.append(str(error))
        except MissingImage as error:
            if all(is_there(path) for path in reader.image_paths(index)):  # else it is counted already
                report.num_incomplete += 1
                report.add_missing(str(error))


def boxes_outside(example: TrainingExample, path: Path | None) -> list[str]:
    """Boxes that go beyond their picture. A few are normal and trained on, as in the originals; many mean that the
    pictures were made smaller after they were annotated."""
    boxes = _BOX.findall(" ".join((*example.questions, *example.answers)))
    beyond = [box for box in boxes if not all(0 <= int(number) <= 100 for number in re.findall(r"-?\d+", box))]
    return [f"box {box} goes beyond its picture {path}" for box in beyond]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.prepare", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cfg-path", type=place, required=True, help="YAML of the stage")
    parser.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the YAML")
    parser.add_argument("--open", type=int, default=50, metavar="N", help="examples of each data set to open (50)")
    options = parser.parse_args(arguments)
    try:
        recipe = load_recipe(options.cfg_path, options.options)
        check_formats(recipe)
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
    return 0 if _can_begin(recipe, reports) else 1


def _can_begin(recipe: Recipe, reports: Sequence[DatasetReport]) -> bool:
    """Say whether training could begin, and if not, why."""
    num_missing = sum(report.num_missing for report in reports)
    refusals = [(report.format, report.refusal(recipe.data.max_missing_share)) for report in reports]
    reasons = [f"{name}: {refusal}" for name, refusal in refusals if refusal is not None]
    if num_missing > recipe.data.max_missing_images:
        allowed = recipe.data.max_missing_images
        reasons.append(f"{num_missing} pictures are missing, more than data.max_missing_images ({allowed}) allows.")
    for reason in reasons:
        print(reason, file=sys.stderr)
    is_fine = not reasons and not any(report.errors for report in reports)
    print("Training can begin." if is_fine else "Training can't begin like this.")
    return is_fine


if __name__ == "__main__":
    sys.exit(main())
