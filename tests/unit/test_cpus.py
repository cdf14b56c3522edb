from __future__ import annotations

import os
from pathlib import Path

import pytest

from bullpy import cpus

V2 = "31 23 0:28 {group} {point} rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "32 31 0:29 {group} {point} rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
OTHERS = (
    "24 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
    "40 31 0:40 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "41 31 0:41 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
)


class Machine:
    """A folder with what a Linux kernel shows of itself."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def v2(self, group: str, *, mounted: str = "/", point: str = "/sys/fs/cgroup") -> None:
        self.write("/proc/self/cgroup", f"0::{group}\n")
        mount = V2.format(group=mounted, point=point.replace(" ", r"\040"))
        self.write("/proc/self/mountinfo", OTHERS + mount)

    def v1(self, group: str, *, mounted: str = "/") -> None:
        self.write(
            "/proc/self/cgroup", f"9:name=systemd:/\n3:cpuset:/\n2:cpu,cpuacct:{group}\n0::/\n"
        )
        point = "/sys/fs/cgroup/cpu,cpuacct"
        self.write("/proc/self/mountinfo", OTHERS + V1.format(group=mounted, point=point))

    def v1_limit(self, folder: str, quota: str, period: str = "100000\n") -> None:
        self.write(f"/sys/fs/cgroup/cpu,cpuacct{folder}/cpu.cfs_quota_us", quota)
        self.write(f"/sys/fs/cgroup/cpu,cpuacct{folder}/cpu.cfs_period_us", period)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with eight CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    return Machine(tmp_path)


def test_without_limits_the_affinity_counts(machine: Machine) -> None:
    assert cpus.quota(machine.root) is None
    assert cpus.available(machine.root) == 8


def test_without_affinity_all_cpus_count(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert cpus.available(machine.root) == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpus.available(machine.root) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("1000 100000\n", 1),
        ("1600000 100000\n", 8),
        ("max 100000\n", 8),
        ("", 8),
        ("nonsense\n", 8),
        ("100000 0\n", 8),
    ],
)
def test_a_container_with_its_own_namespace_is_limited(
    text: str, expected: int, machine: Machine
) -> None:
    machine.v2("/")
    machine.write("/sys/fs/cgroup/cpu.max", text)
    assert cpus.available(machine.root) == expected


def test_the_smallest_limit_of_the_groups_above_counts(machine: Machine) -> None:
    machine.v2("/a.slice/b.service/c")
    machine.write("/sys/fs/cgroup/a.slice/cpu.max", "300000 100000\n")
    machine.write("/sys/fs/cgroup/a.slice/b.service/cpu.max", "150000 50000\n")
    machine.write("/sys/fs/cgroup/a.slice/b.service/c/cpu.max", "max 100000\n")
    assert cpus.quota(machine.root) == 3.0
    machine.write("/sys/fs/cgroup/a.slice/cpu.max", "120000 100000\n")
    assert cpus.quota(machine.root) == 1.2
    # Its neighbours do not.
    machine.write("/sys/fs/cgroup/a.slice/other.service/cpu.max", "100 100000\n")
    assert cpus.quota(machine.root) == 1.2


def test_a_container_that_sees_the_names_of_the_host_finds_its_own_group(machine: Machine) -> None:
    machine.v2("/docker/1234", mounted="/docker/1234")
    machine.write("/sys/fs/cgroup/cpu.max", "400000 100000\n")
    assert cpus.available(machine.root) == 4


@pytest.mark.parametrize("group", ["/../outside", "/elsewhere"])
def test_a_group_that_the_mount_does_not_show_is_looked_for_at_its_top(
    group: str, machine: Machine
) -> None:
    machine.v2(group, mounted="/" if ".." in group else "/docker/1234")
    machine.write("/sys/fs/cgroup/cpu.max", "300000 100000\n")
    machine.write("/sys/fs/outside/cpu.max", "100000 100000\n")
    assert cpus.available(machine.root) == 3


def test_a_mount_point_with_a_space_is_found(machine: Machine) -> None:
    machine.v2("/", point="/mnt/control groups")
    machine.write("/mnt/control groups/cpu.max", "100000 100000\n")
    assert cpus.available(machine.root) == 1


@pytest.mark.parametrize(
    ("quota", "period", "expected"),
    [
        ("300000\n", "100000\n", 3),
        ("50000\n", "20000\n", 3),
        ("-1\n", "100000\n", 8),
        ("", "", 8),
        ("100000\n", "0\n", 8),
    ],
)
def test_version_1_limits_too(quota: str, period: str, expected: int, machine: Machine) -> None:
    machine.v1("/docker/12")
    machine.v1_limit("/docker/12", quota, period)
    machine.v1_limit("", "-1\n")
    assert cpus.available(machine.root) == expected


def test_version_1_limits_of_the_groups_above_count(machine: Machine) -> None:
    machine.v1("/pods/pod/container")
    machine.v1_limit("/pods/pod/container", "-1\n")
    machine.v1_limit("/pods/pod", "200000\n")
    assert cpus.available(machine.root) == 2


@pytest.mark.parametrize("name", ["cgroup", "mountinfo"])
def test_files_that_say_nothing_readable_limit_nothing(name: str, machine: Machine) -> None:
    machine.v2("/")
    machine.write("/sys/fs/cgroup/cpu.max", "100000 100000\n")
    machine.write(f"/proc/self/{name}", "\n:\n a b - c\n\x00\xff\n1 2 3 4 5 6 - cgroup\n")
    assert cpus.available(machine.root) == 8


def test_this_machine_has_between_one_cpu_and_all() -> None:
    assert 1 <= cpus.available() <= (os.cpu_count() or 1)
