#!/usr/bin/env bash
# One run under Slurm, on as many machines as are asked for here or on sbatch's command line:
#
#   sbatch cluster/slurm.sh jobs/pretrain-small.yaml --set run.folder=/shared/runs/small     in the repository's root
#   scancel --batch --signal=TERM JOB      saves a checkpoint, and ends; the same sbatch goes on
#
# Five minutes before the time is over, and where Slurm preempts with PreemptParameters=send_user_signal, the run saves
# a checkpoint, and the job goes back into the queue.
#SBATCH --job-name=raypretrain
#SBATCH --nodes=1
#SBATCH --exclusive
##SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=raypretrain-%j.log
set -euo pipefail

cd "$SLURM_SUBMIT_DIR"
[ ! -d .venv ] || export PATH="$PWD/.venv/bin:$PATH"
export RAY_AUTH_MODE=token
# On the shared home, so that every machine has it, and for its user alone.
[ -n "${RAY_AUTH_TOKEN_PATH:-}" ] || (umask 077 && ray get-auth-token --generate >/dev/null)

# Of this machine, which is the first of them: its address, and a port that is free.
read -r head port < <("$(dirname "$(command -v ray)")/python" -c '
import socket, ray
with socket.socket() as s:
    s.bind(("", 0))
    print(ray.util.get_node_ip_address(), s.getsockname()[1])')

others=$((SLURM_JOB_NUM_NODES - 1))
if [ "$others" -gt 0 ]; then
  srun --nodes="$others" --ntasks="$others" --ntasks-per-node=1 --exclude="$SLURMD_NODENAME" \
    --cpus-per-task="$SLURM_CPUS_ON_NODE" --cpu-bind=none \
    bash cluster/with-ray.sh 1 "$SLURM_JOB_NUM_NODES" "$head" "$port" &
fi
bash cluster/with-ray.sh 0 "$SLURM_JOB_NUM_NODES" "$head" "$port" raypretrain pretrain "$@" &
run=$!

again=
trap 'kill -TERM "$run"' TERM
trap 'again=1; kill -TERM "$run"' USR1
status=0
while kill -0 "$run" 2>/dev/null; do # a signal ends `wait`, but not the run
  wait "$run" && status=0 || status=$?
done
[ -z "$again" ] || [ "$status" -eq 0 ] || scontrol requeue "$SLURM_JOB_ID"
exit "$status"
