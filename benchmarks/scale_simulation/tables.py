"""The tables of docs/scaling.md, from what was measured and what was simulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.scale_simulation.capacity import plan
from benchmarks.scale_simulation.growth import SCENARIOS, door_seconds, table
from benchmarks.scale_simulation.many_replicas import Outcome
from benchmarks.scale_simulation.shortages import shortage_table
from benchmarks.scale_simulation.step_fit import fit, predict, tokens_to_word

NAMES = {"replicas_1": "one replica", "replicas_2": "two replicas"}


def comparison(values: Mapping[str, Any]) -> list[tuple[str, str, float, float]]:
    """For one and two replicas: what is compared, as measured and as simulated, of one run on the average."""
    times = fit(values)
    to_word = tokens_to_word(values, times)
    rows: list[tuple[str, str, float, float]] = []
    for name, words in NAMES.items():
        runs = values[name]
        outcomes = [predict(run, times) for run in runs]
        tokens = sum(answer for run in runs for turns in run["rows"] for _, _, answer in turns)
        seen, said = [run["replicas"] for run in runs], [outcome.busy for outcome in outcomes]
        rows.append((words, "work, s", sum(map(sum, seen)) / len(runs), sum(map(sum, said)) / len(runs)))
        rows.append((words, "work of the busier, s", _mean(map(max, seen)), _mean(map(max, said))))
        rows.append((words, "tokens in a replica's second", tokens / sum(map(sum, seen)), tokens / sum(map(sum, said))))
        for number, what in enumerate(("to the first word, s", "to the end of an answer, s")):
            took = [turn[number] for run in runs for turns in run["latencies"] for turn in turns]
            rows.append((words, what, _mean(took), _mean(_latencies(outcomes, to_word)[number])))
    return [row for row in rows if row[:2] != (NAMES["replicas_1"], "work of the busier, s")]


def _latencies(outcomes: Sequence[Outcome], to_word: float) -> tuple[list[float], list[float]]:
    """To first words, which come `to_word` tokens after first tokens, and to ends."""
    turns = [turn for outcome in outcomes for turn in outcome.turns]
    first = [
        turn.first_token - turn.asked + (turn.ended - turn.first_token) * min(1.0, to_word / max(1, turn.answer - 1))
        for turn in turns
    ]
    return first, [turn.ended - turn.asked for turn in turns]


def _mean(values: Any) -> float:
    found = list(values)
    return float(sum(found)) / len(found)


def comparison_table(values: Mapping[str, Any]) -> str:
    """Markdown."""
    rows = ["| 16 conversations of three turns | | Measured | Simulated | |", "|---|---|--:|--:|--:|"]
    for name, what, seen, said in comparison(values):
        digits = 0 if seen > 100 else 2
        rows.append(f"| {name} | {what} | {seen:.{digits}f} | {said:.{digits}f} | {said / seen - 1:+.0%} |")
    return "\n".join(rows)


def blocks(scale: Mapping[str, Any], growth: Mapping[str, Any]) -> dict[str, str]:
    """Every table by its name in the document."""
    seconds = door_seconds(scale)
    found = {"comparison": comparison_table(scale)}
    for scenario in SCENARIOS:
        rows = growth["rows"][scenario.name]
        planned = plan(scenario.sizes, scenario.machine, scenario.habits)
        assert planned is not None, "the weights fit"
        found[f"growth of {scenario.name}"] = (
            f"{scenario.machine.name}, at ${scenario.machine.price:.2f} an hour, `--max-chats {planned.places} "
            f"--target {planned.questions:.1f}`, for {planned.people} people in a conversation with a replica:\n\n"
            + table(rows, scenario)
        )
    levels = [row["daily_users"] for row in growth["rows"][SCENARIOS[0].name]]
    found["shortages"] = (
        f"A door takes {1000 * seconds:.0f} ms of a processor for a question, as measured. On {SCENARIOS[0].name}s:\n\n"
        + shortage_table(SCENARIOS[0], levels, seconds)
    )
    return found


def written(text: str, found: Mapping[str, str]) -> str:
    """The document with these in their places. Raises KeyError for one that has no place in it."""
    for name, block in found.items():
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        if begin not in text or end not in text:
            raise KeyError(name)
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}{block}\n{end}{rest.partition(end)[2]}"
    return text
