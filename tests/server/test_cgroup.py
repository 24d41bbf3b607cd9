"""What a control group leaves its processes, read from trees as systems show them."""

import os

import pytest

from lightwell_server.resources import free_memory, memory_kills, memory_limit, processors

GIGA = 2**30
MEMINFO = "MemTotal: 16777216 kB\nMemFree: 1048576 kB\nMemAvailable: 8388608 kB\nHugePages_Total: 0\n"
MACHINE = {"proc/meminfo": MEMINFO, "proc/vmstat": "pgfault 5\noom_kill 7\n"}
TOP = "sys/fs/cgroup/"


def version_2(limit, used=GIGA, cached=0, killed=0, cpu="max 100000"):
    """A group's files."""
    return {
        "memory.max": f"{limit}\n",
        "memory.current": f"{used}\n",
        "memory.stat": f"anon 5\ninactive_file {cached}\nactive_file 9\n",
        "memory.events": f"low 0\nhigh 0\nmax 3\noom 1\noom_kill {killed}\n",
        "cpu.max": f"{cpu}\n",
    }


def version_1(limit, used=GIGA, cached=0, killed=0):
    """A group's files of memory."""
    return {
        "memory.limit_in_bytes": f"{limit}\n",
        "memory.usage_in_bytes": f"{used}\n",
        "memory.stat": f"inactive_file 1\nhierarchical_memory_limit {limit}\ntotal_inactive_file {cached}\n",
        "memory.oom_control": f"oom_kill_disable 0\nunder_oom 0\noom_kill {killed}\n",
    }


def quota_1(quota):
    return {"cpu.cfs_quota_us": f"{quota}\n", "cpu.cfs_period_us": "100000\n"}


NO_LIMIT_1 = 9223372036854771712
IN_1 = "12:cpuset:/\n5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/docker/abc\n"
SLICE, SERVICE = "system.slice", "system.slice/lightwell.service"

# What the system shows, and what is read from it: the limit, free bytes, the quota of processors, kills.
TREES = {
    "bare machine without groups": ([MACHINE], (None, 8 * GIGA, 99, 7)),
    "version 2, no limit anywhere": (
        [MACHINE, {"proc/self/cgroup": "0::/\n"}, (TOP, {"cgroup.controllers": "cpu memory\n"})],
        (None, 8 * GIGA, 99, 7),
    ),
    "container with a namespace of its own": (
        [
            MACHINE,
            {"proc/self/cgroup": "0::/\n"},
            (TOP, version_2(4 * GIGA, 3 * GIGA, GIGA, killed=2, cpu="250000 100000")),
        ],
        (4 * GIGA, 2 * GIGA, 2, 2),
    ),
    "container that is shown the path outside of it": (
        [MACHINE, {"proc/self/cgroup": "0::/docker/abc\n"}, (TOP, version_2(4 * GIGA, cpu="50000 100000"))],
        (4 * GIGA, 3 * GIGA, 1, 0),
    ),
    "group outside of the namespace": (
        [MACHINE, {"proc/self/cgroup": "0::/../../other\n"}, (TOP, version_2(4 * GIGA))],
        (4 * GIGA, 3 * GIGA, 99, 0),
    ),
    "version 2, a limit of the service itself": (
        [
            MACHINE,
            {"proc/self/cgroup": f"0::/{SERVICE}\n"},
            (f"{TOP}{SLICE}/", version_2("max", 5 * GIGA, killed=9)),
            (f"{TOP}{SERVICE}/", version_2(2 * GIGA, 2 * GIGA, GIGA // 2, killed=1, cpu="300000 100000")),
        ],
        (2 * GIGA, GIGA // 2, 3, 1),
    ),
    "version 2, the slice above has less": (
        [
            MACHINE,
            {"proc/self/cgroup": f"0::/{SERVICE}\n"},
            (f"{TOP}{SLICE}/", version_2(6 * GIGA, 5 * GIGA, cpu="200000 100000")),
            (f"{TOP}{SERVICE}/", version_2("max", GIGA)),
        ],
        (6 * GIGA, GIGA, 2, 0),
    ),
    "version 2, two limits, and neighbours that fill the outer one": (
        [
            MACHINE,
            {"proc/self/cgroup": f"0::/{SERVICE}\n"},
            (f"{TOP}{SLICE}/", version_2(6 * GIGA, 6 * GIGA - 5)),
            (f"{TOP}{SERVICE}/", version_2(4 * GIGA, GIGA)),
        ],
        (4 * GIGA, 5, 99, 0),
    ),
    "version 1": (
        [
            MACHINE,
            {"proc/self/cgroup": IN_1},
            (f"{TOP}memory/", version_1(NO_LIMIT_1, 9 * GIGA)),
            (f"{TOP}memory/docker/abc/", version_1(3 * GIGA, 2 * GIGA, GIGA, killed=4)),
            (f"{TOP}cpu,cpuacct/", quota_1(-1)),
            (f"{TOP}cpu,cpuacct/docker/abc/", quota_1(150000)),
        ],
        (3 * GIGA, 2 * GIGA, 1, 4),
    ),
    "version 1 without a limit": (
        [MACHINE, {"proc/self/cgroup": IN_1}, (f"{TOP}memory/docker/abc/", version_1(NO_LIMIT_1))],
        (None, 8 * GIGA, 99, 0),
    ),
    "version 1 in a container that is shown the path outside of it": (
        [
            MACHINE,
            {"proc/self/cgroup": IN_1},
            (f"{TOP}memory/", version_1(3 * GIGA, 2 * GIGA, killed=4)),
            (f"{TOP}cpu/", quota_1(200000)),
        ],
        (3 * GIGA, GIGA, 2, 4),
    ),
    "both versions at once": (
        [
            MACHINE,
            {"proc/self/cgroup": IN_1 + "0::/system.slice/docker.service\n"},
            (f"{TOP}unified/system.slice/docker.service/", {"cgroup.events": "populated 1\n"}),
            (f"{TOP}memory/docker/abc/", version_1(3 * GIGA, GIGA)),
            (f"{TOP}cpu,cpuacct/docker/abc/", quota_1(400000)),
        ],
        (3 * GIGA, 2 * GIGA, 4, 0),
    ),
    "a limit above what the machine has left": (
        [MACHINE, {"proc/self/cgroup": "0::/\n"}, (TOP, version_2(64 * GIGA))],
        (64 * GIGA, 8 * GIGA, 99, 0),
    ),
    "more used than allowed": (
        [MACHINE, {"proc/self/cgroup": "0::/\n"}, (TOP, version_2(GIGA, 2 * GIGA))],
        (GIGA, 0, 99, 0),
    ),
    "a limit, and nothing else": ([{f"{TOP}memory.max": str(GIGA)}], (GIGA, GIGA, 99, None)),
    "use, and no limit": ([MACHINE, {f"{TOP}memory.current": str(GIGA)}], (None, 8 * GIGA, 99, 7)),
    "files that say something else": (
        [
            {"proc/meminfo": "MemAvailable: lots\n", "proc/vmstat": "oom_kill\n", "proc/self/cgroup": "what\n0:\n"},
            (TOP, {"memory.max": "-5", "memory.events": "oom_kill x\n", "cpu.max": "100000"}),
            (TOP, {"memory.limit_in_bytes": "", "cpu.cfs_quota_us": "100000", "cpu.cfs_period_us": "0"}),
        ],
        (None, None, 99, None),
    ),
    "nothing at all": ([], (None, None, 99, None)),
}


def shown(root, files):
    """A file system with those files, each group of them under a directory's name."""
    for part in files:
        under, named = part if isinstance(part, tuple) else ("", part)
        for name, text in named.items():
            path = root / f"{under}{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return root


@pytest.mark.parametrize(("files", "told"), TREES.values(), ids=TREES)
def test_a_group_is_read(tmp_path, monkeypatch, files, told):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(99))
    root = shown(tmp_path, files)
    assert (memory_limit(root), free_memory(root), processors(root), memory_kills(root)) == told


def test_a_process_that_is_bound_to_fewer_processors_than_its_quota_has_those(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3})
    assert processors(shown(tmp_path, [{f"{TOP}cpu.max": "800000 100000"}])) == 1


def test_directories_in_the_place_of_files_are_no_limits(tmp_path):
    for name in ("memory.max", "cpu.max", "memory.events"):
        (tmp_path / TOP / name).mkdir(parents=True)
    assert (memory_limit(tmp_path), free_memory(tmp_path), memory_kills(tmp_path)) == (None, None, None)


def test_a_group_may_have_a_name_that_is_no_text(tmp_path):
    root = shown(tmp_path, [(f"{TOP}od\udcff/", version_2(4 * GIGA))])
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_bytes(b"0::/od\xff\n")
    assert memory_limit(root) == 4 * GIGA
    assert memory_limit(shown(root, [{"proc/self/cgroup": "0::/other\n"}])) is None


def test_this_machine_has_something():
    assert free_memory() > 0 and processors() >= 1
