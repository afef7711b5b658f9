#!/usr/bin/env bash
# Starts Ray on every node of a Slurm allocation, runs a command on the first, and ends Ray.
#
#   infra/slurm/on_ray.sh COMMAND...        under sbatch or salloc, one task a node
#
# SIGTERM is handed to the command, which commits and exits. The exit code is the command's.
# OBJECT_STORE_BYTES sizes each node's object store, HEAD_IP names the first node's address where
# it has several. Every node needs the same paths (a shared file system).
set -euo pipefail

: "${SLURM_JOB_ID:?is not set: run this under sbatch or salloc}"
: "${SLURM_NNODES:?is not set: run this under sbatch or salloc}"
folder=/tmp/ray-$SLURM_JOB_ID # short: it holds Unix sockets

start_node() {
    local options=(
        --block --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}"
    )
    if [[ -n ${OBJECT_STORE_BYTES:-} ]]; then
        options+=(--object-store-memory="$OBJECT_STORE_BYTES")
    fi
    if ((SLURM_NODEID == 0)); then
        exec ray start --head --node-ip-address="$HEAD_IP" --port="$HEAD_PORT" \
            --include-dashboard=false --temp-dir="$folder" "${options[@]}"
    fi
    until head_answers; do
        if ((SECONDS > 300)); then
            echo "error: node $SLURM_NODEID finds no head at $RAY_ADDRESS after 300 s;" \
                "set HEAD_IP to an address of the first node that the others reach" >&2
            exit 1
        fi
        sleep 1
    done
    exec ray start --address="$RAY_ADDRESS" "${options[@]}"
}

head_answers() {
    ray health-check --address="$RAY_ADDRESS" >/dev/null 2>&1
}

if [[ ${1:-} == --node ]]; then
    start_node
fi
if (($# == 0)); then
    echo "error: no command; give what to run on the cluster, e.g. python jobs/encode_dataset.py" >&2
    exit 1
fi

HEAD_IP=${HEAD_IP:-$(hostname -I | cut -d' ' -f1)}
HEAD_PORT=$((20000 + SLURM_JOB_ID % 10000)) # of its own, where jobs share a node
RAY_ADDRESS=$HEAD_IP:$HEAD_PORT
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n')
RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # all nodes end at once: there is nowhere to drain to
RAY_idle_worker_killing_time_threshold_ms=60000 # not to load modules anew after an idle second
export HEAD_IP HEAD_PORT RAY_ADDRESS RAY_AUTH_MODE RAY_AUTH_TOKEN
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S RAY_idle_worker_killing_time_threshold_ms

srun --overlap --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 \
    "$PWD/infra/slurm/on_ray.sh" --node &
cluster=$!
driver=

stop_driver() {
    if [[ -n $driver ]]; then
        kill -TERM "$driver" 2>/dev/null || true
    fi
}
running() {
    kill -0 "$1" 2>/dev/null
}
pause() {
    sleep "$1" &
    wait $! || true # unlike sleep itself it lets a signal through at once
}
stopped=
trap 'stopped=1; stop_driver' TERM INT
trap 'kill -TERM "$cluster" 2>/dev/null || true; wait "$cluster" || true; rm -rf "$folder"' EXIT

until head_answers; do
    if ! running "$cluster" || [[ -n $stopped ]]; then
        echo "error: Ray did not start" >&2
        exit 1
    fi
    pause 1
done
"$@" &
driver=$!
if [[ -n $stopped ]]; then
    stop_driver
fi
while running "$driver" && running "$cluster"; do
    pause 1
done
if running "$driver"; then
    echo "error: Ray ended on some node; the run commits and stops" >&2
    stop_driver
fi
code=0
while running "$driver"; do
    pause 1
done
wait "$driver" || code=$?
exit "$code"
