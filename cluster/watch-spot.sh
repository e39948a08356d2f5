#!/usr/bin/env bash
# Asks the cloud every five seconds whether it wants this machine back, and if so has Ray leave it in good time.
# The launchers start it beside Ray on every worker; on one that is paid for on demand it never hears anything.
#
#   bash watch-spot.sh aws|gcp|azure
set -euo pipefail

cloud="${1:?which cloud: aws, gcp or azure}"
here="$(cd "$(dirname "$0")" && pwd)"
metadata="${METADATA:-http://169.254.169.254}" # the same address in all three

ask() { curl --silent --fail --max-time 2 "$@"; }

is_reclaimed() {
  case "$cloud" in
    aws)
      local token
      token="$(ask -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/latest/api/token")" &&
        ask -H "X-aws-ec2-metadata-token: $token" "$metadata/latest/meta-data/spot/instance-action" >/dev/null
      ;;
    gcp) ask -H 'Metadata-Flavor: Google' "$metadata/computeMetadata/v1/instance/preempted" | grep -q TRUE ;;
    azure) ask -H 'Metadata: true' "$metadata/metadata/scheduledevents?api-version=2020-07-01" | grep -q Preempt ;;
  esac
}

until is_reclaimed; do
  sleep 5
done
case "$cloud" in
  aws) exec bash "$here/leave.sh" 110 ;; # of two minutes
  *) exec bash "$here/leave.sh" 25 ;;    # of thirty seconds
esac
