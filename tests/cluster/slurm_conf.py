"""The configuration of a SLURM whose nodes are all on this machine."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.daemon import user

GPUS = 2
"""Fake ones on every node."""


def slurm_conf(directory: Path, port: int, nodes: Mapping[str, int], cpus: int) -> str:
    """Text of ``slurm.conf``; ``nodes`` are names and ports. As good from 21.08 to 24.11."""
    host = socket.gethostname().partition(".")[0]
    me = user()
    text = f"""\
ClusterName=allstop
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={me}
SlurmdUser={me}

AuthType=auth/munge
# how long a credential holds is also how long a requeued job waits
AuthInfo=socket={directory}/munge.socket,cred_expire=10

StateSaveLocation={directory}/state
SlurmctldPidFile={directory}/slurmctld.own-pid
SlurmdSpoolDir={directory}/%n
SlurmdPidFile={directory}/%n.own-pid

# no cgroups, nothing to pin, and more CPUs than this machine has
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu

# no mail
MailProg=/bin/true
ReturnToService=2
SlurmdTimeout=3600
# what a job under way saves takes a while where many save at once
KillWait=10
MinJobAge=300
MaxArraySize=100001
MaxJobCount=200000
# a job starts as soon as it can
SchedulerParameters=batch_sched_delay=0,sched_min_interval=10000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1

"""
    for name, node_port in nodes.items():
        text += (
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port}"
            f" CPUs={cpus} RealMemory=64000 Gres=gpu:fake:{GPUS}\n"
        )
    return text + _PARTITIONS


_PARTITIONS = """
PartitionName=main Nodes=ALL Default=YES State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=low  Nodes=ALL State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=gpu  Nodes=ALL State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=cpu  Nodes=ALL State=UP PriorityTier=10 PreemptMode=OFF
"""


def gres_conf(directory: Path) -> str:
    """Text of ``gres.conf``: its device files have to be devices."""
    return f"Name=gpu Type=fake File={directory}/gpu[0-{GPUS - 1}]\n"


def cgroup_conf(directory: Path, version: tuple[int, int]) -> str:
    """Text of ``cgroup.conf``, such that cgroups are left alone."""
    if version >= (24, 5):
        return "CgroupPlugin=disabled\n"
    if version >= (23, 0):
        return f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={directory}/cgroup\n"
    return ""
