"""500 damaged files, numbered: each is refused with a typed error, or measured.

A failure names its mutant; `python tests/support/fuzzing.py NUMBER` does it again.
"""

from __future__ import annotations

import pytest
from support import misbehaving
from support.fuzzing import campaign
from support.mutants import corpus, mutant

from bullpy.audio.kernel import library

MUTANTS = 500


def engines() -> tuple[str, ...]:
    try:
        library.load()
    except library.KernelError:
        return ("numpy",)
    return ("c", "numpy")


def test_500_damaged_files_end_in_a_typed_error_or_a_report() -> None:
    found = campaign(range(MUTANTS), engines())
    assert found.failures == []
    assert found.outcomes.total() == MUTANTS
    # Damage of every depth is among them: none of these may become rare.
    for outcome in ("measured", "CorruptAudioError", "NotAudioError", "EmptyAudioError"):
        assert found.outcomes[outcome] >= 3, found.outcomes


def test_a_number_always_gives_the_same_mutant() -> None:
    some = [mutant(seed) for seed in range(50)]
    assert some == [mutant(seed) for seed in range(50)]
    assert len({each.content for each in some}) > 45
    assert all(each.content not in corpus().values() for each in some[:5])


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        (misbehaving.crash, "killed its process: signal 11"),
        (misbehaving.leave, "killed its process: exit code 3"),
        (misbehaving.hang, "was not done"),
        (misbehaving.complain, "NaN"),
    ],
)
def test_what_goes_wrong_names_its_mutant_and_does_not_end_the_campaign(
    measure: misbehaving.Measure, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("support.fuzzing.LONGEST", 0.1)
    found = campaign(range(5), ("numpy",), children=1, measure=measure)
    (failure,) = found.failures
    assert f"mutant {misbehaving.WHICH} (" in failure
    assert said in failure
    assert found.outcomes["measured"] + ("NaN" not in said) == 5
