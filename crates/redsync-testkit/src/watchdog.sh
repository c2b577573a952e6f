# Kills and removes what a killed test process left behind.
#
# Arguments: $1, the path that every server directory begins with.
# Input:     lines `made DIR`, `removed DIR`, `started PID`, `tidies PID`, `ended PID`; its end means the test process is
#            gone.
# Caller:    watchdog.rs, once per test process.

# Whoever interrupts the tests means the tests: this has to outlive them.
trap '' INT TERM HUP QUIT

prefix=$1
pids=' '
tidy=' ' # Those among them that get the time to clean up.
set -- # From here on the positional parameters are the directories.

while read -r event subject; do
    case $event in
    made) set -- "$@" "$subject" ;;
    removed)
        for directory; do
            shift
            [ "$directory" = "$subject" ] || set -- "$@" "$directory"
        done
        ;;
    started) pids="$pids$subject " ;;
    tidies) tidy="$tidy$subject " ;;
    ended)
        case $pids in
        *" $subject "*) pids="${pids%% $subject *} ${pids#* $subject }" ;;
        esac
        case $tidy in
        *" $subject "*) tidy="${tidy%% $subject *} ${tidy#* $subject }" ;;
        esac
        ;;
    esac
done

for pid in $tidy; do
    kill -QUIT "$pid"
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        kill -0 "$pid" || break
        sleep 0.1
    done
done

for pid in $pids; do
    kill -9 "$pid"
done

for directory; do
    case $directory in
    */../*) continue ;;
    "$prefix"*) ;;
    *) continue ;;
    esac
    # A dying server may still finish the system call that creates a file: look again.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        rm -rf -- "$directory"
        [ -e "$directory" ] || break
        sleep 0.1
    done
done
