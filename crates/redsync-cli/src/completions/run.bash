
# Completes what `redsync run` runs as a command of its own. Completes all other words as above.
_redsync_or_command() {
    local line=$COMP_LINE trimmed i skip='' state=subcommand begin=''
    local words=() first=()
    # bash splits words at `:` and `=`. Join what the line does not separate by blanks.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        trimmed=${line#"${line%%[!$' \t']*}"}
        if ((i == 0)) || [[ $trimmed != "$line" ]]; then
            words+=("${COMP_WORDS[i]}")
            first+=("$i")
        else
            words[${#words[@]} - 1]+=${COMP_WORDS[i]}
        fi
        line=${trimmed#"${COMP_WORDS[i]}"}
    done
    for ((i = 1; i < ${#words[@]}; i++)); do
        if [[ -n $skip ]]; then
            skip=''
        elif [[ $state == command && ${words[i]} == -- && i -lt ${#words[@]}-1 ]]; then
            begin=$((i + 1))
            break
        elif [[ ${words[i]} == -* ]]; then
            case ${words[i]} in
                @OPTIONS_WITH_VALUES@) skip=1 ;;
            esac
        elif [[ $state == subcommand ]]; then
            [[ ${words[i]} == run ]] || break
            state=name
        elif [[ $state == name ]]; then
            state=command
        else
            begin=$i
            break
        fi
    done
    if [[ -z $begin ]]; then
        _redsync "$@"
    elif declare -F _comp_command_offset >/dev/null; then
        _comp_command_offset "${first[begin]}"
    elif declare -F _command_offset >/dev/null; then
        _command_offset "${first[begin]}"
    elif ((begin == ${#words[@]} - 1)); then
        COMPREPLY=($(compgen -c -- "$2"))
    else
        COMPREPLY=($(compgen -f -- "$2"))
    fi
}
