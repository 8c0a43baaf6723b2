# Outlives the process that started it: that process holds the only write end of our standard input, so the end of
# input means that it is gone, by whatever way. Then we end what it left running and remove its directory.
#
#   $1  the directory; a process is only ever signalled while its command line names it
#   $2  the signal to end processes with, before KILL
# Input lines: "+ PID" (look after it), "- PID" (it is reaped, forget it).
trap '' HUP INT TERM QUIT PIPE
cd / || exit 1
directory=$1
signal=$2
pids=

while read -r sign pid; do
    case $sign in
    +) pids="$pids $pid" ;;
    -)
        kept=
        for other in $pids; do
            [ "$other" = "$pid" ] || kept="$kept $other"
        done
        pids=$kept
        ;;
    esac
done

# Whether process $1 runs and is ours. A zombie has no command line, so nobody waits for one.
ours() {
    if [ -d /proc/self ]; then
        tr '\0' ' ' <"/proc/$1/cmdline" | grep -qF -- "$directory"
    else
        ps -o command= -p "$1" | grep -qF -- "$directory"
    fi
}

# Sets $living to the processes still to be ended, among them a server that came up without our being told.
look() {
    living=
    postmaster=
    [ -r "$directory/data/postmaster.pid" ] && read -r postmaster <"$directory/data/postmaster.pid"
    for pid in $pids $postmaster; do
        if ours "$pid"; then living="$living $pid"; fi
    done
    [ -n "$living" ]
}

round=0
while look && [ "$round" -lt 100 ]; do
    [ "$round" -eq 0 ] && kill -s "$signal" $living
    [ "$round" -eq 50 ] && kill -s KILL $living
    kill -s CONT $living
    sleep 0.1
    round=$((round + 1))
done

# A process that is just ending may still create files, so once is not always enough.
round=0
while [ -e "$directory" ] && [ "$round" -lt 50 ]; do
    rm -rf -- "$directory" || sleep 0.1
    if look; then kill -s KILL $living; fi
    round=$((round + 1))
done
