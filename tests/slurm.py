"""A real SLURM for tests: munge, controller and one node on loopback, in a folder of their own, by anybody.

Nothing of the system's own SLURM is read or changed. What differs from a site's: memory is watched by sampling every
second, not by cgroups; states change within seconds, not minutes; processors, memory and GPUs are as many as the
configuration claims; there is no accounting.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
from orthanc import free_port

START_S = 60
PLACES = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
PROGRAMS = {name: shutil.which(name, path=PLACES) for name in ("munged", "slurmctld", "slurmd", "sbatch", "srun")}

T = TypeVar("T")


def lacking() -> str:
    """What is not installed, or empty."""
    missing = [name for name, path in PROGRAMS.items() if not path]
    return f"SLURM is not installed: no {', '.join(missing)} (Debian packages slurm-wlm and munge)" if missing else ""


def until(condition: Callable[[], T], *, what: str, limit_s: float = START_S) -> T:
    """The first true value of a condition; an error that says what was waited for if there is none in time."""
    begin = time.monotonic()
    while not (value := condition()):
        assert time.monotonic() - begin < limit_s, f"waited {limit_s} s for {what}"
        time.sleep(0.2)
    return value


CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A job that is put back into the queue waits until its credential has expired.
AuthInfo=socket={root}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
MpiDefault=none
GresTypes=gpu
KillWait=2
MessageTimeout=2
MinJobAge=7200
SlurmdTimeout=4
ReturnToService=2
# The node has what is said below, whatever the machine has.
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=100000,bf_interval=2
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=64000 Gres=gpu:1
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE
"""


class Slurm:
    """A cluster of one node that runs until :meth:`stop`.

    ``environment`` is what commands need that speak to it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        # munge takes no key, socket or log below a folder that others may write to.
        root.mkdir(mode=0o755, parents=True)
        for name in ("state", "spool", "bin"):
            (root / name).mkdir()
        self._configuration = root / "slurm.conf"
        self._configuration.write_text(
            CONFIGURATION.format(
                root=root,
                host=socket.gethostname().split(".")[0],
                user=pwd.getpwuid(os.getuid()).pw_name,
                controller_port=free_port(),
                node_port=free_port(),
            )
        )
        (root / "gres.conf").write_text("Name=gpu File=/dev/null\n")
        # The executor's plugin forgets SLURM_CONF within jobs.
        srun = root / "bin" / "srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self._configuration} exec {PROGRAMS["srun"]} "$@"\n')
        srun.chmod(0o755)
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(self._configuration),
            "PATH": f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}",
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        try:
            self._start_munge()
            self._start("slurmctld", "-D", "-i", "-f", self._configuration)
            self.power_on()
        except BaseException:
            self.stop()
            raise

    def _start(self, name: str, *arguments: str | Path) -> None:
        with (self.root / f"{name}.out").open("ab") as out:
            self._processes[name] = subprocess.Popen(
                [str(PROGRAMS[name]), *arguments], stdout=out, stderr=out, env=self.environment
            )

    def _start_munge(self) -> None:
        key = self.root / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        places = {"key-file": key, **{f"{kind}-file": self.root / f"munge.{kind}" for kind in ("log", "pid", "seed")}}
        options = [f"--{name}={path}" for name, path in places.items()]
        # Forced: the folder may lie below one that others may write to, such as a temporary one.
        self._start("munged", "--foreground", "--force", f"--socket={self.root / 'munge.socket'}", *options)
        until((self.root / "munge.socket").exists, what=f"munge ({self.root / 'munged.out'})")

    def ask(self, command: str) -> str:
        """What a command of SLURM's prints; empty if the controller does not answer."""
        words = shlex.split(command)
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False).stdout

    def node_state(self) -> str:
        return self.ask("sinfo --noheader --Node --format=%T").strip()

    def jobs(self) -> list[dict[str, str]]:
        """Every job that the controller remembers, in the order of submission, as ``scontrol`` tells of it."""
        lines = self.ask("scontrol --oneliner show job").splitlines()
        jobs = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines if line.startswith("JobId=")]
        return sorted(jobs, key=lambda job: int(job["JobId"]))

    def power_on(self) -> None:
        self._start("slurmd", "-D", "-f", self._configuration)
        up = ("idle", "mixed", "allocated")
        until(lambda: self.node_state() in up, what=f"the node ({self.root / 'slurmd.log'})")

    def power_off(self) -> None:
        """Kill everything on the node at once, as a power cut does."""
        doomed = [process for process in psutil.process_iter() if self._is_step(process)]
        for step in list(doomed):
            with contextlib.suppress(psutil.Error):
                doomed += step.children(recursive=True)
        doomed.append(psutil.Process(self._processes["slurmd"].pid))
        for process in doomed:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._processes.pop("slurmd").wait(START_S)
        psutil.wait_procs(doomed, timeout=START_S)

    def _is_step(self, process: psutil.Process) -> bool:
        """Whether it is a daemon of a job's step, which outlives the node's: it listens in the node's folder."""
        try:
            return process.name() == "slurmstepd" and any(
                str(connection.laddr).startswith(f"{self.root / 'spool'}/")
                for connection in process.net_connections("unix")
            )
        except psutil.Error:
            return False

    def stop(self) -> None:
        if "slurmd" in self._processes:
            self.power_off()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(START_S)
            except subprocess.TimeoutExpired:
                process.kill()
