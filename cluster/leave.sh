#!/usr/bin/env bash
# Tells Ray that this machine goes in SECONDS, and returns when nothing of Ray runs on it any more, or they are over.
# The workers save a checkpoint at once, and go on elsewhere or with fewer (docs/checkpoints.md, Preemption).
#
#   bash leave.sh SECONDS [NODE]
#     NODE  its id in Ray; by default Ray finds it by what runs on this machine
set -euo pipefail

seconds="${1:?in how many seconds}"
ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "the machine is being reclaimed" \
  --deadline-remaining-seconds "$seconds" ${2:+--node-id "$2"}
end=$((SECONDS + seconds))
while pgrep -x raylet >/dev/null && [ "$SECONDS" -lt "$end" ]; do
  sleep 1
done
