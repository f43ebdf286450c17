#!/bin/bash
# A real Slurm of four virtual nodes on one machine, to be thrown away (Debian, root, no systemd). All state lies in $D.
# usage: cluster.sh install | start | stop          its clients need SLURM_CONF=$D/etc/slurm.conf
#
# Each slurmd has a host name and an /etc/hosts of its own (unshare): jobs see distinct nodes whose names resolve, and
# this machine's stay as they are. Node 4 sees an empty $D/private: a folder that the nodes do not share.
set -euo pipefail
D=${SLURM_TEST_DIR:-/tmp/slurm-test}
P=${SLURM_TEST_PORT:-26800} # slurmctld; P+1: slurmdbd, P+2: mariadbd, P+10+i: slurmd of node i
NODES=4 CPUS=4 GPUS=2
PROC=$([ -w /sys/fs/cgroup/freezer/cgroup.procs ] && echo cgroup || echo linuxproc)
R=$D/run
export SLURM_CONF=$D/etc/slurm.conf

alive() { # pid file, word in its command line
  local pid
  [ -s "$R/$1.pid" ] && pid=$(cat "$R/$1.pid") && grep -qsa -- "$2" "/proc/$pid/cmdline"
}
dead() { ! alive "$@"; }
wait_for() { # seconds, command
  local i seconds=$1
  shift
  for ((i = 0; i < seconds * 10; i++)); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
  echo "cluster.sh: still not after $seconds s: $*" >&2
  return 1
}
end() {
  if alive "$1" "$2"; then
    local pid
    pid=$(cat "$R/$1.pid")
    kill "$pid" || true
    wait_for 15 dead "$1" "$2" || kill -9 "$pid" || true
  fi
  rm -f "$R/$1.pid"
}
nodes_up() { [ "$(sinfo -h -N -p debug -t idle,mix,alloc -o %N | wc -l)" = "$NODES" ]; }
no_jobs() { [ -z "$(squeue -h)" ]; }

install() {
  export DEBIAN_FRONTEND=noninteractive
  command -v slurmctld slurmd slurmdbd munged mariadbd sbatch >/dev/null && return
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client slurmdbd munge mariadb-server >/dev/null
}

configure() {
  local i
  mkdir -p "$D"/{etc,run,log,state,spool,db,dev,private}
  chmod 755 "$D" "$D"/*
  chmod 700 "$D/state"
  [ -s "$D/etc/munge.key" ] || (umask 077; head -c 128 /dev/urandom > "$D/etc/munge.key")
  # Slurm wants distinct device files for its GPUs; these are /dev/null under other names.
  for ((i = 0; i < GPUS; i++)); do [ -c "$D/dev/gpu$i" ] || mknod "$D/dev/gpu$i" c 1 3; done
  {
    grep -v ' node[0-9]*$' /etc/hosts
    for ((i = 1; i <= NODES; i++)); do echo "127.0.0.$((10 + i)) node$i"; done
  } > "$D/etc/hosts"
  echo "NodeName=node[1-$NODES] Name=gpu File=$D/dev/gpu[0-$((GPUS - 1))]" > "$D/etc/gres.conf"
  printf '%s\n' CgroupPlugin=cgroup/v1 CgroupAutomount=no CgroupMountpoint=/sys/fs/cgroup > "$D/etc/cgroup.conf"
  # cred_expire: a requeued job may start after that time, 120 s by default. FirstJobId: numbers of clusters before this
  # one must not come back. config_overrides: nodes have the cores that are written here.
  cat > "$D/etc/slurm.conf" <<EOF
ClusterName=test
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$R/munge.socket,cred_expire=5
SlurmctldPort=$P
CommunicationParameters=NoCtldInAddrAny
SlurmctldPidFile=$R/slurmctld.pid
SlurmdPidFile=$R/slurmd-%n.pid
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool/%n
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/slurmd-%n.log
FirstJobId=$(($(date +%s) % 60000000 + 1))
ProctrackType=proctrack/$PROC
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
JobRequeue=1
KillWait=15
SlurmdTimeout=25
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$((P + 1))
AccountingStoragePass=$R/munge.socket
AccountingStorageTRES=gres/gpu
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node[1-$NODES] NodeHostname=localhost NodeAddr=127.0.0.[11-$((10 + NODES))] Port=[$((P + 11))-$((P + 10 + NODES))] CPUs=$CPUS RealMemory=500000 Gres=gpu:$GPUS State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=1-00:00:00 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
EOF
  (umask 077; cat > "$D/etc/slurmdbd.conf" <<EOF
AuthType=auth/munge
AuthInfo=socket=$R/munge.socket
DbdHost=localhost
DbdPort=$((P + 1))
SlurmUser=root
PidFile=$R/slurmdbd.pid
LogFile=$D/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((P + 2))
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
EOF
  )
}

start_database() {
  local client="mariadb --no-defaults --socket=$R/mysql.sock -uroot" host
  [ -d "$D/db/mysql" ] || {
    mariadb-install-db --no-defaults --user=root --datadir="$D/db.new" --skip-test-db \
      --auth-root-authentication-method=normal > "$D/log/install-db.log" 2>&1
    rm -rf "$D/db"
    mv "$D/db.new" "$D/db"
  }
  setsid mariadbd --no-defaults --user=root --datadir="$D/db" --socket="$R/mysql.sock" --pid-file="$R/mysqld.pid" \
    --bind-address=127.0.0.1 --port=$((P + 2)) --innodb-buffer-pool-size=64M --innodb-log-file-size=16M \
    --innodb-flush-log-at-trx-commit=0 --innodb-lock-wait-timeout=900 --log-error="$D/log/mysqld.log" \
    </dev/null >/dev/null 2>&1 &
  wait_for 60 mariadb-admin --no-defaults --socket="$R/mysql.sock" -uroot ping
  $client -e "create database if not exists slurm_acct_db"
  for host in localhost 127.0.0.1; do
    $client -e "create user if not exists slurm@'$host' identified by 'slurm'; grant all on slurm_acct_db.* to slurm@'$host'"
  done
}

start_node() {
  mkdir -p "$D/spool/node$1"
  # shellcheck disable=SC2016
  unshare --mount --uts sh -c '
    mount --bind "$1/etc/hosts" /etc/hosts && hostname "$2" || exit 1
    [ "$2" != node4 ] || mount -t tmpfs none "$1/private"
    exec slurmd -N "$2"' sh "$D" "node$1"
}

start() { # what is not running, a killed node too
  local i
  configure
  alive munged munged || {
    rm -f "$R"/munge.socket*
    munged --key-file="$D/etc/munge.key" --socket="$R/munge.socket" --pid-file="$R/munged.pid" \
      --log-file="$D/log/munged.log" --seed-file="$D/etc/munge.seed"
  }
  alive mysqld mariadbd || start_database
  alive slurmdbd slurmdbd || slurmdbd
  wait_for 60 sacctmgr -n list cluster
  sacctmgr -n list cluster format=cluster | grep -qw test || sacctmgr -i add cluster test >/dev/null
  alive slurmctld slurmctld || slurmctld
  for ((i = 1; i <= NODES; i++)); do alive "slurmd-node$i" slurmd || start_node "$i"; done
  wait_for 90 nodes_up
}

stop() { # jobs first: slurmd would leave them running
  local file
  if alive slurmctld slurmctld; then
    squeue -h -o %A | sort -u | xargs -r scancel || true
    wait_for 30 no_jobs || true
  fi
  end slurmctld slurmctld
  for file in "$R"/slurmd-*.pid; do [ -e "$file" ] && end "$(basename "$file" .pid)" slurmd; done
  end slurmdbd slurmdbd
  end mysqld mariadbd
  end munged munged
}

case "${1:-}" in
  install | start | stop) "$1" ;;
  *) echo "usage: $0 install | start | stop" >&2; exit 2 ;;
esac
