"""What is taken from reports: measures of an actor, as mean and standard deviation over seeds."""

import statistics
from collections.abc import Callable
from typing import NamedTuple


class Measure(NamedTuple):
    label: str
    of: Callable[[dict, dict], float | None]  # (report, its part of an actor) → value
    digits: int = 3


def _key(name: str):
    return lambda report, actor: actor.get(name)


def _by_floor(report, actor):
    return actor["sliced_wasserstein"] / report["teacher"]["sliced_wasserstein"]


def _latency(report, actor):
    return actor["latency_ms"]["p50"]


CLOSED_LOOP = {  # those of episodes, by what they begin with; the tasks that score more have more
    "success": {
        "success": Measure("success", _key("success")),
        "success_1": Measure("one box placed", _key("success_1")),
        "success_2": Measure("two boxes placed", _key("success_2")),
        "goal_reached": Measure("goal reached", _key("goal_reached")),
        "subtasks_of_goal": Measure("sub-tasks of the goal", _key("subtasks_of_goal"), 2),
        "subtasks": Measure("sub-tasks", _key("subtasks"), 2),
    },
    "entropy": {
        "entropy": Measure("entropy of the modes", _key("entropy")),
        "entropy_1": Measure("one box", _key("entropy_1")),
        "entropy_2": Measure("two boxes", _key("entropy_2")),
    },
}
MEASURES = {
    **CLOSED_LOOP["success"], **CLOSED_LOOP["entropy"],
    "sliced_wasserstein_by_floor": Measure("sliced Wasserstein to teacher / floor", _by_floor, 2),
    "mmd": Measure("MMD² to teacher", _key("mmd"), 4),
    "std_ratio": Measure("std / teacher's", _key("std_ratio")),
    "nll_held_out": Measure("NLL of held-out actions (nats)", _key("nll_held_out")),
    "network_calls": Measure("network calls per action", _key("network_calls"), 0),
    "latency_p50_ms": Measure("latency, p50 (ms)", _latency),
}
BESIDE = tuple(name for name in MEASURES
               if not any(name in of for of in CLOSED_LOOP.values()))
EXPLAINED = (
    "Sliced Wasserstein distance and MMD² are between actions of policy and teacher in scaled "
    "units, at held-out states; the floor is the distance of the teacher's samples from others of "
    "its own. The latency is of a batch of 1 during the evaluation, whatever else the machine did "
    "meanwhile; table 3 compares latencies. Success in the kitchen: four sub-tasks or more. –: not "
    "there, or a standard deviation of one seed.")


def of_actor(reports: list[dict], actor: Callable[[dict], dict | None]) -> dict:
    """Measure → {mean, std, n, values} over the reports that hold it.

    Args:
      reports: one a seed.
      actor: report → its part of the actor; None where it has none.
    """
    found = {}
    for name, measure in MEASURES.items():
        values = [measure.of(report, part) for report in reports if (part := actor(report))]
        values = [value for value in values if value is not None]
        if values:
            found[name] = {
                "mean": statistics.fmean(values),
                "std": statistics.stdev(values) if len(values) > 1 else None,
                "n": len(values), "values": values}
    return found


def shown(cells: dict, name: str) -> str:
    """'mean ± std (n)' of one measure."""
    if name not in cells:
        return "–"
    cell, digits = cells[name], MEASURES[name].digits
    if not digits and not cell["std"]:
        return f"{cell['mean']:g}"
    std = "–" if cell["std"] is None else f"{cell['std']:.{digits}f}"
    return f"{cell['mean']:.{digits}f} ± {std} ({cell['n']})"


def of_paper(number: list | None) -> str:
    """'mean ± std' as printed; its teachers have no deviation."""
    if number is None:
        return "–"
    mean, std = number
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"
