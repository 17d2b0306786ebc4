#!/usr/bin/env bash
# Runs one command as a pod does, on this machine: N hosts, each a process with M virtual CPU devices.
#   launch/local_pod.sh N [M] -- COMMAND…     M is 1 if it is not given
# The quickstart's eight devices on four hosts, for example:
#   launch/local_pod.sh 4 2 -- .venv/bin/python -m lwm.train --config=experiments/quickstart.py:lwm \
#     --workdir=runs/pod
# Host 0 speaks here; all hosts write logs, runs/local_pod/host_<index>.log ($LOCAL_POD_LOGS is another folder).
# The first host that fails takes the others along: $LOCAL_POD_PATIENCE seconds later (20) those that have not
# ended by themselves are killed, one line says which host it was, and its exit code is that of the pod.
# SIGTERM and Ctrl-C reach all hosts as SIGTERM, which is how a cloud warns of preemption: training saves and
# stops. A second one kills them.
exec python3 "$(dirname "${BASH_SOURCE[0]}")/local_pod.py" "$@"
