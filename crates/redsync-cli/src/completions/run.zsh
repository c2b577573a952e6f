'::command:_command_names -e' \
'*:::arguments:{ (( $#line > 2 )) && (( CURRENT++ )) || { words=(); CURRENT=1 }; words=("$line[2]" "${words[@]}"); _normal }'
