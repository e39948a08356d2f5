#!/usr/bin/env bash
# A Ray cluster over machines that something else has given (Slurm, SkyPilot), for as long as a command runs. To be run
# on each of them; the first one runs the command, which finds the cluster by RAY_ADDRESS.
#
#   bash with-ray.sh RANK MACHINES HEAD PORT COMMAND…
#     RANK      0 on the first machine
#     MACHINES  how many there are
#     HEAD      the address of the first, and PORT a free one there
#
# SIGTERM to the first is passed to the command alone, which can save a checkpoint with the cluster still there. The
# first ends with the command's status, the others with 0 when the first is gone.
set -euo pipefail

rank="$1" machines="$2" head="$3" port="$4"
shift 4
address="$head:$port"
python="$(dirname "$(command -v ray)")/python"
options=()
[ -z "${SLURM_CPUS_ON_NODE:-}" ] || options=(--num-cpus="$SLURM_CPUS_ON_NODE") # the others' are not ours

# No statistics are sent. Who ends one machine here ends them all: there is nobody to hand work to.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
if [ -z "${RAY_AUTH_TOKEN:-}" ] && [ ! -s "${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}" ]; then
  echo "with-ray.sh: there is no token for Ray; make one: (umask 077; ray get-auth-token --generate >/dev/null)" >&2
  exit 2
fi

# shellcheck disable=SC2317 # reached by the traps
end_ray() {
  kill -TERM "$ray" 2>/dev/null || return 0
  wait "$ray" || true
}

if [ "$rank" -gt 0 ]; then
  until ray health-check --address "$address" >/dev/null 2>&1; do
    sleep 2
  done
  ray start --address="$address" --block "${options[@]}" &
  ray=$!
  trap end_ray EXIT
  missed=0
  while kill -0 "$ray" 2>/dev/null && [ "$missed" -lt 3 ]; do
    sleep 2
    timeout 5 bash -c "<>/dev/tcp/$head/$port" 2>/dev/null && missed=0 || missed=$((missed + 1))
  done
  [ "$missed" -ge 3 ] || wait "$ray" # not the head: it is this machine's Ray that has ended
  exit 0
fi

ray start --head --block --node-ip-address="$head" --port="$port" --dashboard-host=127.0.0.1 "${options[@]}" &
ray=$!
trap end_ray EXIT # with the command ends the cluster

until ray health-check --address "$address" >/dev/null 2>&1; do
  kill -0 "$ray" # or it has failed, and said why
  sleep 2
done
echo "with-ray.sh: waiting for $machines machines" >&2
"$python" - "$address" "$machines" <<'PYTHON'
import sys, time, ray

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(1)
PYTHON

RAY_ADDRESS="$address" "$@" &
command=$!
trap 'kill -TERM "$command" 2>/dev/null || true' TERM
status=0
while kill -0 "$command" 2>/dev/null; do # a signal ends `wait`, but not the command
  wait "$command" && status=0 || status=$?
done
exit "$status"
