"""What is said below the table of a suite."""

from collections import Counter
from collections.abc import Iterator

from pytest_compression.conclusion import Family
from pytest_compression.familywise import Pool
from pytest_compression.gate.erosion import Slide, slid
from pytest_compression.report.properties import REASON, TRIAL, Row


def in_all(row: Row) -> int:
    """How many questions there are, if some could not be asked or need not be."""
    asked = int(row.get("questions", 0))
    whole = int(row.get("questions_in_all", asked)) + int(row.get("left_out", 0))
    return whole if whole > asked else 0


def remarks(name: str, found: list[Row], family: Family | None) -> Iterator[str]:
    """What is to be said of a suite besides its figures."""
    if family is not None and name in family.pools:
        yield remarks_of_pool(family.pools[name])
    yield from slides(found)
    other = sorted({str(row["hardware"]) for row in found if row.get("fallback")})
    if other:
        count = sum(bool(row.get("fallback")) for row in found)
        yield (
            f"{count} trials were compared with the baselines of other hardware "
            f"({', '.join(other)}): there are none of this one."
        )
    yield from noise(found)


def left_out(found: list[Row]) -> Iterator[str]:
    """How many questions of each trial were not asked, and why."""
    for row in found:
        if row.get("left_out"):
            counts = {name: count for name, count in row.items() if name.startswith(REASON)}
            reasons = "; ".join(
                f"{name.removeprefix(REASON)} ({count})"
                for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            )
            yield (
                f"{row[TRIAL].partition('::')[2]} left out {row['left_out']} of {in_all(row)}: "
                f"{reasons}."
            )


def remark_of_contracts(checked: dict[str, str]) -> str:
    """How many recipes keep the contracts of their steps."""
    broken = [node for node, outcome in checked.items() if outcome != "passed"]
    said = f"Contracts of {len(checked)} recipe{'s' if len(checked) > 1 else ''} checked"
    return f"{said}; red: {', '.join(broken)}." if broken else f"{said}: all are kept."


def kept(found: list[Row], *, reasons: bool) -> Iterator[str]:
    """How many trials were answered from the cache, and why others could not be kept."""
    count = sum(bool(row.get("cached")) for row in found)
    if count:
        trials = f"{len(found)} trial{'s' if len(found) > 1 else ''}"
        yield f"{count} of {trials} from the cache (--compress-cache refresh measures anew)."
    if reasons:
        for reason, times in Counter(row["cache"] for row in found if "cache" in row).items():
            yield f"Cache, {times} trial{'s' if times > 1 else ''}: {reason}."


def remarks_of_pool(pool: Pool) -> str:
    """What all trials of a suite say together."""
    found = pool.found
    units = "relations" if found.clustered else "questions"
    return (
        f"Pooled over {found.trials} tested trials: {found.loss:+.3%} of the answers lost, net, "
        f"since they were accepted, p = {found.p:.2g} ({found.units} {units} differ)."
    )


def slides(found: list[Row]) -> Iterator[str]:
    """How far the accepted figures have slid since the first."""
    erosion = slid(
        {
            row[TRIAL].partition("::")[2]: Slide(
                since=row["slid_since"],
                times=row["slid_times"],
                score=row["slid_score"],
                questions=row["slid_questions"],
                floor=row["slid_floor"],
            )
            for row in found
            if "slid_since" in row
        }
    )
    if erosion is None:
        return
    count = erosion.trials
    said = f"{count} trial{'s' if count > 1 else ''} accepted anew since the first time"
    if not (erosion.lower or erosion.floors or erosion.questions):
        yield f"{said}; nothing has slid."
        return
    slid_ = [f"mean score {erosion.mean_score:+.4f}"]
    if erosion.lower:
        slid_.append(
            f"{erosion.lower} with a lower one, the worst {erosion.worst_score:+.4f} "
            f"({erosion.worst})"
        )
    slid_ += [f"{erosion.floors} floors lowered"] if erosion.floors else []
    slid_ += [f"{erosion.questions} questions dropped"] if erosion.questions else []
    yield f"{said}: {'; '.join(slid_)}."


def noise(found: list[Row]) -> Iterator[str]:
    """What a calibration has found."""
    for row in found:
        if "noise_near_tie" in row:
            shifts = ", ".join(
                f"{name} {shift:.2g} ({row['noise_flips'].get(name, 0)} flips)"
                for name, shift in row["noise_shifts"].items()
            )
            yield (
                f"{row[TRIAL].partition('::')[2]}: margins moved by at most, in nats: {shifts}. "
                f"Near ties within {row['noise_near_tie']:.2g} nats settle all of that; "
                f"{max(row['near_tie'], row['noise_near_tie']):.2g} are asked for from now on. To "
                f"be expected: {row['false_red']:.2%} of runs are called drift by numerics alone."
            )
