# Runs the image's server for as long as someone is connected under the guard's name. The process that started the
# container holds such a session; when it dies, by whatever way, the session ends and so does the container.
#   $1  the guard's application name; what follows are arguments of the server
guard=$1
shift
docker-entrypoint.sh postgres "$@" &
server=$!
trap 'kill -QUIT "$server"' TERM INT

seen=
missing=0
waited=0
while kill -0 "$server" && [ "$missing" -lt 3 ] && [ "$waited" -lt 180 ]; do
    sleep 1
    # No answer is not an absence: the server may be starting, or recovering.
    count=$(psql -h /var/run/postgresql -U "$POSTGRES_USER" -d postgres -AtX \
        -c "SELECT count(*) FROM pg_stat_activity WHERE application_name = '$guard'")
    case $count in
    '') ;;
    0) [ -n "$seen" ] && missing=$((missing + 1)) ;;
    *) seen=1 missing=0 ;;
    esac
    [ -n "$seen" ] || waited=$((waited + 1))
done
kill -QUIT "$server"
waited=0
while kill -0 "$server" && [ "$waited" -lt 5 ]; do
    sleep 1
    waited=$((waited + 1))
done
# A shell starts its background jobs deaf to QUIT; the server hears it once it is up, what comes before does not.
kill -KILL "$server"
