#!/bin/bash
# A distillation on all hosts of a TPU pod slice. Needs gcloud, a project with TPU quota, and a
# bucket or shared file system that every host sees.
#
#   TPU=vdd ZONE=us-central2-b SLICE=v4-32 WORKDIR=/mnt/shared/avoiding SOURCE=https://… \
#       experiments/pods/tpu_pod.sh
#
# The same command goes on after a preemption: a run resumes from its last checkpoint.
set -euo pipefail
: "${TPU:=vdd}" "${ZONE:?which zone}" "${SLICE:=v4-32}" "${VERSION:=tpu-ubuntu2204-base}"
: "${WORKDIR:?a directory that all hosts share}" "${CONFIG:=configs/avoiding.py}"
: "${SOURCE:?the address of this repository, for git clone}"

on_all_hosts() { gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"; }

gcloud compute tpus tpu-vm describe "$TPU" --zone="$ZONE" > /dev/null 2>&1 ||
  gcloud compute tpus tpu-vm create "$TPU" --zone="$ZONE" --accelerator-type="$SLICE" \
    --version="$VERSION"
on_all_hosts "python3 -m venv ~/vdd && ~/vdd/bin/pip install -q 'jax[tpu]' && \
  rm -rf ~/vdd_jax && git clone -q $SOURCE ~/vdd_jax && ~/vdd/bin/pip install -q -e ~/vdd_jax"
# --coordinator=auto: JAX finds the hosts of a pod slice by itself
on_all_hosts "cd ~/vdd_jax && ~/vdd/bin/python -m vdd_jax.main --config=$CONFIG \
  --workdir=$WORKDIR --coordinator=auto $*"
