"""An actor holds as many teachers as `memory_gb` allows, and always those that it works with.

No Ray is started."""

from typing import Any

import pytest

from cosup.cluster.kept_teachers import KeptTeachers, RemoteTeacher

SIZE = 100


def group(*names: str) -> list[RemoteTeacher]:
    spec: Any = None
    return [RemoteTeacher(spec, 0, name, SIZE, None) for name in names]


def visit(kept: KeptTeachers, *names: str) -> bool:
    """Restore all teachers of a group; return whether they were kept from before."""
    teachers: dict[str, Any] = kept.of(group(*names))
    found = set(teachers) == set(names)
    assert found or not teachers
    teachers.update(dict.fromkeys(names))
    return found


@pytest.mark.parametrize(("memory", "groups"), [(399, 1), (400, 2), (599, 2), (600, 3)])
def test_the_last_groups_within_the_memory_are_kept(memory: float, groups: int) -> None:
    kept = KeptTeachers(memory)
    names = ["ab", "cd", "ef", "gh"]
    assert not any(visit(kept, *pair) for pair in names)
    assert all(visit(kept, *pair) for pair in names[-groups:])
    assert not visit(kept, *names[-groups - 1])


def test_a_large_group_takes_the_place_of_several() -> None:
    kept = KeptTeachers(300)
    for name in "abc":
        visit(kept, name)
    assert not visit(kept, "d", "e")
    assert visit(kept, "c")  # 100 + 200 fit
    assert not visit(kept, "a")
    assert not visit(kept, "d", "e")


def test_one_teacher_is_held_however_large_it_is() -> None:
    kept = KeptTeachers(SIZE / 2)
    assert not visit(kept, "a")
    assert visit(kept, "a")
    assert not visit(kept, "b")
    assert not visit(kept, "a")
