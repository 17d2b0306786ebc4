#!/usr/bin/env bash
# Hosts on one machine: network namespaces behind a switch, each on a link as slow as is asked.
#
#   network_hosts.sh hold COUNT SECONDS
#       makes lwm-host0, lwm-host1, … and holds them until its input ends, a signal comes or the time is over.
#       Then what runs on them is killed and all is removed. Says "ok" when they stand and after each line of
#       its input:  rate MBIT  = every link carries so many Mbit/s in each direction, 0 = as fast as it can
#   network_hosts.sh enter NUMBER COMMAND…
#       runs a command on a host, under the host's name; the hosts know each other by name
#
# Needs root and iproute2. If a step fails, one line says which and why, nothing is left behind, and the exit
# code is 2. The guard removes the hosts if the holder cannot, killed by SIGKILL: it reads from a pipe that
# ends with the holder. The switch stands in a namespace too, so the machine's own network is not touched.
set -uo pipefail
shopt -s nullglob

HOST=lwm-host SWITCH=lwm-switch LOCK=/run/lwm-hosts.lock
MOST=8 LONGEST=21600 # hosts, seconds
# What a bucket holds is sent at full speed after a pause. It is kept small beside the messages, frames are
# large so that few timers are needed all the same, and what waits is never dropped for want of room.
MTU=9000 BURST=20000 ROOM=16mb

fail() {
  echo "error: $*" >&2
  exit 2
}

# step WHAT COMMAND…
step() {
  local what=$1 said
  shift
  said=$("$@" 2>&1) || fail "$what: ${said%%$'\n'*}"
}

whole() { [[ $1 =~ ^[0-9]{1,9}$ ]]; }

names() {
  echo "$SWITCH"
  for ((i = 0; i < count; i++)); do echo "$HOST$i"; done
}

make() {
  step "make namespace $SWITCH" ip netns add "$SWITCH"
  step "make the switch" ip -n "$SWITCH" link add bridge up type bridge
  local table="127.0.0.1 localhost" i name
  for ((i = 0; i < count; i++)); do table+=$'\n'"10.0.0.$((i + 1)) $HOST$i"; done
  for ((i = 0; i < count; i++)); do
    name=$HOST$i
    step "make namespace $name" ip netns add "$name"
    step "name the hosts on $name" mkdir -p "/etc/netns/$name"
    step "name the hosts on $name" tee "/etc/netns/$name/hosts" <<<"$table"
    step "link $name to the switch" \
      ip -n "$SWITCH" link add "port$i" mtu $MTU type veth peer name eth0 mtu $MTU netns "$name"
    step "link $name to the switch" ip -n "$SWITCH" link set "port$i" master bridge up
    step "give $name its address" ip -n "$name" address add "10.0.0.$((i + 1))/24" dev eth0
    step "start the link of $name" ip -n "$name" link set eth0 up
    step "start the loopback of $name" ip -n "$name" link set lo up
  done
}

# limit MBIT: what a host sends is held back on its own side, what it receives on the side of the switch.
limit() {
  local i at shape=(tbf rate "${1}mbit" burst $BURST limit $ROOM)
  (($1 == 0)) && shape=(pfifo limit 10000)
  for ((i = 0; i < count; i++)); do
    for at in "$HOST$i eth0" "$SWITCH port$i"; do
      step "limit $HOST$i to $1 Mbit/s" tc -n "${at% *}" qdisc replace dev "${at#* }" root "${shape[@]}"
    done
  done
}

remove() {
  local name
  for name in $(names); do
    if [[ -e /run/netns/$name ]]; then
      ip netns pids "$name" | xargs -r kill -KILL
      ip netns delete "$name"
    fi
    rm -f "/etc/netns/$name/hosts"
    [[ -d /etc/netns/$name ]] && rmdir "/etc/netns/$name"
  done 2>/dev/null
  rmdir /etc/netns 2>/dev/null # if nobody else has anything in it
  return 0
}

hold() {
  count=$1
  whole "$count" && ((count >= 1 && count <= MOST)) || fail "COUNT: ${count@Q}; from 1 to $MOST hosts"
  whole "$2" && (($2 >= 1 && $2 <= LONGEST)) || fail "SECONDS: ${2@Q}; from 1 to $LONGEST"
  ((EUID == 0)) || fail "become root: user $EUID; start it with sudo"
  local tool name
  for tool in ip tc; do command -v $tool >/dev/null || fail "find $tool: not here; install iproute2"; done
  exec {lock}>"$LOCK" || fail "open $LOCK: not possible"
  flock -w 10 "$lock" || fail "lock $LOCK: hosts of another run stand; wait for it"
  for name in $(names); do
    [[ ! -e /run/netns/$name && ! -e /etc/netns/$name ]] ||
      fail "make namespace $name: it exists already; ip netns delete $name; rm -r /etc/netns/$name"
  done
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  trap remove EXIT
  exec {life}> >(exec setsid "${BASH_SOURCE[0]}" guard "$count" "$2" >/dev/null 2>&1)
  local ends=$((SECONDS + $2)) word mbit
  make
  echo ok
  while ((ends > SECONDS)) && read -r -t $((ends - SECONDS)) word mbit; do
    [[ $word == rate ]] && whole "$mbit" || fail "input ${word@Q} ${mbit@Q}; rate and a whole number of Mbit/s"
    limit "$mbit"
    echo ok
  done
}

guard() {
  count=$1
  trap '' INT TERM HUP
  read -r -t $(($2 + 30)) _
  remove
}

enter() {
  local name=$HOST$1
  shift
  [[ -e /run/netns/$name ]] || fail "enter $name: no such host; network_hosts.sh hold makes it"
  # shellcheck disable=SC2016
  exec ip netns exec "$name" unshare --uts sh -c 'echo "$0" >/proc/sys/kernel/hostname && exec "$@"' "$name" "$@"
}

case ${1-}:$# in
  hold:3 | guard:3) "$@" ;;
  enter:[3-9] | enter:[1-9][0-9]) "$@" ;;
  *) fail "usage: network_hosts.sh hold COUNT SECONDS | enter NUMBER COMMAND…" ;;
esac
