"""Step times from measurements of one replica, and what the simulation then says of any number of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.scale_simulation.many_replicas import Outcome, Scaling, Simulation, Talk
from benchmarks.scale_simulation.measured import LONG, SHORT, Rows, served
from benchmarks.scale_simulation.one_replica import StepTimes

REPEATS = 4  # of the conversations at the same time
ROUNDS = 20  # of the fit, which is settled after a few
PLACES = 8  # answers at once of the bundled model


def measure(*, count: int = 16) -> dict[str, Any]:
    """One replica in situations that tell its times apart, and then one and two with `count` conversations."""
    values: dict[str, Any] = {}
    for replicas in (1, 2):
        with served(replicas) as cluster:
            cluster.run(4 * replicas, 3, 60, at_once=4)  # warm
            if replicas == 1:
                values["short_prompts"] = cluster.read(SHORT, 24).values()
                values["long_prompts"] = cluster.read(LONG, 24).values()
                values["first_turns"] = cluster.run(24, 1, 1, at_once=1).values()
                values["later_turns"] = cluster.run(16, 3, 1, at_once=1).values()
                values["alone"] = cluster.run(12, 1, 60, at_once=1).values()
                values["together"] = cluster.run(4 * PLACES, 1, 60, at_once=PLACES).values()
            runs = [cluster.run(count, 3, 60, at_once=count).values() for _ in range(REPEATS)]
            values[f"replicas_{replicas}"] = runs
    return values


def fit(values: Mapping[str, Any]) -> StepTimes:
    """The step times with which the simulation of one replica takes what was measured."""
    long, short = values["long_prompts"], values["short_prompts"]
    prompt_token = max(1e-6, (_each(long) - _each(short)) / (_read(long) - _read(short)))
    times = StepTimes(step=1e-3, answer=1e-3, prompt_token=prompt_token, first_turn=0.0, later_turn=0.0, places=PLACES)
    turns = len(values["later_turns"]["rows"][0])
    for _ in range(ROUNDS):  # what a step takes and what is around it depend on each other
        first = _missing(values["first_turns"], times)
        times = replace(times, first_turn=max(0.0, times.first_turn + first))
        later = _missing(values["later_turns"], times) / (turns - 1)
        times = replace(times, later_turn=max(0.0, times.later_turn + later))
        # One answer has a step to itself, and PLACES share one.
        alone = _missing(values["alone"], times) / _steps(values["alone"])
        together = _missing(values["together"], times) / _steps(values["together"])
        step = (alone - together) * PLACES / (PLACES - 1)
        times = replace(times, step=max(1e-6, times.step + step), answer=max(1e-6, times.answer + alone - step))
    return times


def tokens_to_word(values: Mapping[str, Any], times: StepTimes) -> float:
    """After its first token, until an answer has a word to show (spaces and halves of words are none): as measured of
    answers that were alone."""
    alone = values["alone"]
    outcomes = _in_waves(alone, times)
    said = [turn.first_token - turn.asked for outcome in outcomes for turn in outcome.turns]
    seen = [turns[0][0] for turns in alone["latencies"]]
    return max(0.0, (sum(seen) / len(seen) - sum(said) / len(said)) / times.seconds(1))


def predict(values: Mapping[str, Any], times: StepTimes) -> Outcome:
    """The same conversations by as many replicas, each where it was answered."""
    count = len(values["replicas"])
    return Simulation(times, Scaling(least=count, most=count)).run(conversations_of(values["rows"], values["places"]))


def conversations_of(rows: Rows, places: Sequence[int | None]) -> list[Talk]:
    """As the simulation takes them: all begin at once and go on as soon as they have an answer."""
    found = []
    for turns, place in zip(rows, places, strict=True):
        said, pairs = 0, []
        for prompt, _, answer in turns:
            pairs.append((max(1, prompt - said), answer))
            said = prompt + answer
        found.append(Talk(0.0, tuple(pairs), replica=place))
    return found


def _each(values: Mapping[str, Any]) -> float:
    return float(sum(values["replicas"])) / len(values["rows"])


def _read(values: Mapping[str, Any]) -> float:
    """Tokens of a prompt that were not found in memory."""
    return sum(prompt - found for turns in values["rows"] for prompt, found, _ in turns) / len(values["rows"])


def _steps(values: Mapping[str, Any]) -> float:
    """Of one conversation of one turn."""
    return max(1.0, sum(turns[0][2] for turns in values["rows"]) / len(values["rows"]) - 1)


def _missing(values: Mapping[str, Any], times: StepTimes) -> float:
    """Seconds of each conversation that the simulation of one replica lacks."""
    busy = sum(sum(outcome.busy) for outcome in _in_waves(values, times))
    return (float(sum(values["replicas"])) - busy) / len(values["rows"])


def _in_waves(values: Mapping[str, Any], times: StepTimes) -> list[Outcome]:
    """One replica, and as many conversations at a time as there were."""
    rows, at_once = values["rows"], values["at_once"]
    waves = [rows[start : start + at_once] for start in range(0, len(rows), at_once)]
    alone = Scaling(least=1, most=1)
    return [Simulation(times, alone).run(conversations_of(wave, [0] * len(wave))) for wave in waves]
