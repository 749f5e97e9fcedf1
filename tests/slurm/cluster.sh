#!/usr/bin/env bash
# A real Slurm of one node with two pretend GPUs, as the plain user or as root, for tests.
#
#   cluster.sh start DIR    everything (configuration, state, logs, key, sockets) goes to DIR, new or empty; prints the
#                           path of slurm.conf: with it in SLURM_CONF, sbatch and nextflow talk to this cluster
#   cluster.sh stop DIR     cancels its jobs and ends its daemons; DIR stays
#
# Exit status 77 where Slurm or munge isn't installed (Debian: apt-get install slurm-wlm munge).
set -euo pipefail

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
SOCKET_PATH_LIMIT=70  # Linux allows 107 characters, and Slurm appends names of its own

say() { echo "cluster.sh: $*" >&2; }

require_programs() {
    local missing=()
    for program in munged slurmctld slurmd sbatch squeue scancel sinfo; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    if ((${#missing[@]})); then
        say "not installed: ${missing[*]} (Debian: apt-get install slurm-wlm munge)"
        exit 77
    fi
}

free_ports() {
    python3 -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in held))'
}

write_configuration() {
    local node user cores memory controller_port node_port
    node=$(hostname -s)
    user=$(id -un)
    cores=$(nproc)
    memory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
    read -r controller_port node_port < <(free_ports)
    # Slurm numbers devices, not plain files; without numbers a job would not learn which GPU it was given
    ln -s /dev/null "$DIR/gpu0"
    ln -s /dev/zero "$DIR/gpu1"
    cat >"$DIR/gres.conf" <<CONF
Name=gpu File=$DIR/gpu0
Name=gpu File=$DIR/gpu1
CONF
    cat >"$DIR/slurm.conf" <<CONF
ClusterName=tlimb
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$controller_port
SlurmdPort=$node_port
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$DIR/munge.socket
CredType=cred/munge
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd.pid
SlurmctldLogFile=$DIR/slurmctld.log
SlurmdLogFile=$DIR/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=512
ReturnToService=2
KillWait=2
GresTypes=gpu
NodeName=$node NodeAddr=127.0.0.1 CPUs=$((cores < 2 ? 2 : cores)) RealMemory=$memory Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=$node Default=YES MaxTime=INFINITE State=UP
CONF
}

start_munge() {
    (umask 077 && head -c 128 /dev/urandom >"$DIR/munge.key")
    munged --force --socket="$DIR/munge.socket" --key-file="$DIR/munge.key" --pid-file="$DIR/munged.pid" \
        --seed-file="$DIR/munged.seed" --log-file="$DIR/munged.log" &>"$DIR/munged.out"
}

wait_until_idle() {
    for _ in {1..100}; do
        [[ $(sinfo --noheader --format %T 2>/dev/null) == idle ]] && return
        sleep 0.2
    done
    return 1
}

start() {
    require_programs
    mkdir -p "$DIR"
    DIR=$(realpath "$DIR")
    if ((${#DIR} > SOCKET_PATH_LIMIT)); then
        say "$DIR: at most $SOCKET_PATH_LIMIT characters, sockets stand in it"
        exit 1
    fi
    if [[ -n $(ls -A "$DIR") ]]; then
        say "$DIR: not empty"
        exit 1
    fi
    mkdir "$DIR/state" "$DIR/spool"
    write_configuration
    export SLURM_CONF=$DIR/slurm.conf
    if start_munge && slurmctld &>"$DIR/slurmctld.out" && slurmd &>"$DIR/slurmd.out" && wait_until_idle; then
        echo "$SLURM_CONF"
        return
    fi
    say "the cluster doesn't start; the ends of its logs:"
    tail -n 5 "$DIR"/*.out "$DIR"/*.log >&2
    stop
    exit 1
}

stop() {
    DIR=$(realpath "$DIR")
    export SLURM_CONF=$DIR/slurm.conf
    if [[ -e $DIR/slurmctld.pid ]]; then
        timeout 10 scancel --user="$(id -un)" --quiet || true
        for _ in {1..50}; do
            [[ -z $(timeout 5 squeue --noheader 2>/dev/null) ]] && break
            sleep 0.2
        done
    fi
    for daemon in slurmd slurmctld munged; do
        end_daemon "$DIR/$daemon.pid" "$daemon"
    done
}

end_daemon() {
    local pid
    pid=$(cat "$1" 2>/dev/null) || return 0
    [[ $(cat "/proc/$pid/comm" 2>/dev/null) == "$2" ]] || return 0
    kill "$pid"
    for _ in {1..50}; do
        grep -qs '^State:[[:space:]][^ZX]' "/proc/$pid/status" || return 0
        sleep 0.1
    done
    kill -KILL "$pid"
}

if [[ $# -ne 2 || ($1 != start && $1 != stop) ]]; then
    say "usage: cluster.sh start|stop DIR"
    exit 2
fi
DIR=$2
"$1"
