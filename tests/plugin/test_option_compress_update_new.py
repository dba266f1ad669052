"""``--compress-update-new`` records what has no baseline and leaves the others alone."""

from project import Project


def test_existing_files_stay_as_they_are_to_the_byte(project: Project) -> None:
    project.accept("-k", "low")
    before = project.baselines()
    assert len(before) == 3
    odd = before[project.baseline("int8")].replace(b"\n", b"\r\n")
    (project.path / project.baseline("int8")).write_bytes(odd)
    project.run("--compress-update-new").assert_outcomes(passed=4, xfailed=2, skipped=1)
    after = project.baselines()
    assert len(after) == 6
    assert {name: after[name] for name in before} == before | {project.baseline("int8"): odd}


def test_a_loss_against_an_existing_baseline_still_fails(project: Project) -> None:
    project.accept("-k", "low")
    project.edit("above: 1000", "above: 10")
    project.run("--compress-update-new", "-k", "low").assert_outcomes(
        passed=1, failed=1, xfailed=1, deselected=4
    )


def test_a_stale_dense_baseline_keeps_new_recipes_from_being_recorded(project: Project) -> None:
    project.accept("-k", "dense")
    before = project.baselines()
    project.edit("tiny: {", "tiny: {weights: w2, ")
    project.run("--compress-update-new").assert_outcomes(errors=6, skipped=1)
    assert project.baselines() == before
