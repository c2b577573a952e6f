
# Prints what is typed of the command that `redsync run` runs, with the word at the cursor; fails before its first word.
function __fish_redsync_command
    set -l words (commandline -opc) (commandline -ct)
    set -l state subcommand
    set -l skip
    for i in (seq 2 (count $words))
        set -l word $words[$i]
        if set -q skip[1]
            set skip
        else if test $state = command -a "$word" = -- -a $i -lt (count $words)
            string join -- ' ' (string escape -- $words[(math $i + 1)..-2]) $words[-1]
            return 0
        else if string match -q -- '-*' $word
            switch $word
                case @OPTIONS_WITH_VALUES@
                    set skip 1
            end
        else if test $state = subcommand
            test "$word" = run
            or return 1
            set state name
        else if test $state = name
            set state command
        else
            test $i -lt (count $words)
            and string join -- ' ' (string escape -- $words[$i..-2]) $words[-1]
            or echo -- $word
            return 0
        end
    end
    return 1
end

complete -c redsync -n __fish_redsync_command -f -a '(complete -C (__fish_redsync_command))'
