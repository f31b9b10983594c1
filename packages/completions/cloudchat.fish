# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_cloudchat_global_optspecs
    string join \n h/help V/version
end

function __fish_cloudchat_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_cloudchat_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_cloudchat_using_subcommand
    set -l cmd (__fish_cloudchat_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c cloudchat -n "__fish_cloudchat_needs_command" -s h -l help -d 'Print help'
complete -c cloudchat -n "__fish_cloudchat_needs_command" -s V -l version -d 'Print version'
complete -c cloudchat -n "__fish_cloudchat_needs_command" -f -a "serve" -d 'Run the server'
complete -c cloudchat -n "__fish_cloudchat_needs_command" -f -a "check" -d 'Tell whether a configuration would start, print the memory sum and every limit, and look at the database'
complete -c cloudchat -n "__fish_cloudchat_needs_command" -f -a "doctor" -d 'Look for what breaks a server in practice, and print the lines that fix it'
complete -c cloudchat -n "__fish_cloudchat_needs_command" -f -a "example-config" -d 'Print a configuration file with every key, its default and why it is there'
complete -c cloudchat -n "__fish_cloudchat_needs_command" -f -a "demo" -d 'Run the server with a simulated model: nothing to configure, nothing to install'
complete -c cloudchat -n "__fish_cloudchat_needs_command" -f -a "backup" -d 'Copy the data folder\'s files, also while the server runs, and check the copies'
complete -c cloudchat -n "__fish_cloudchat_needs_command" -f -a "restore" -d 'Put a backup in the place of the data folder\'s files, which are kept; the server must not run'
complete -c cloudchat -n "__fish_cloudchat_needs_command" -f -a "migrate" -d 'Make or update the tables in PostgreSQL, also while servers run'
complete -c cloudchat -n "__fish_cloudchat_needs_command" -f -a "reload" -d 'Have a running server replaced by a new process, without losing a request; waits for the outcome'
complete -c cloudchat -n "__fish_cloudchat_needs_command" -f -a "user" -d 'Look at and change accounts on the server\'s store, also while the server runs'
complete -c cloudchat -n "__fish_cloudchat_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand serve" -l config -d 'Configuration file; without it /etc/cloudchat/config.toml, if it is there' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand serve" -l listen -d 'Where to listen: host:port or unix:/path; may be repeated; replaces the file\'s list' -r
complete -c cloudchat -n "__fish_cloudchat_using_subcommand serve" -l data-dir -d 'Folder for the stored data' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand serve" -s h -l help -d 'Print help'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand check" -l config -d 'Configuration file; without it /etc/cloudchat/config.toml, if it is there' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand check" -l listen -d 'Where to listen: host:port or unix:/path; may be repeated; replaces the file\'s list' -r
complete -c cloudchat -n "__fish_cloudchat_using_subcommand check" -l data-dir -d 'Folder for the stored data' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand check" -l ask -d 'Also ask each provider one short question, which may cost something, and for its models'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand check" -s h -l help -d 'Print help'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand doctor" -l config -d 'Configuration file; without it /etc/cloudchat/config.toml, if it is there' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand doctor" -l listen -d 'Where to listen: host:port or unix:/path; may be repeated; replaces the file\'s list' -r
complete -c cloudchat -n "__fish_cloudchat_using_subcommand doctor" -l data-dir -d 'Folder for the stored data' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand doctor" -l url -d 'Where the server is published, such as https://example.com/cloudchat: asks one chat, which it reads for up to 20 s, and uses up this host\'s registrations of the hour' -r
complete -c cloudchat -n "__fish_cloudchat_using_subcommand doctor" -l json -d 'One line of JSON instead of text'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand example-config" -s h -l help -d 'Print help'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand demo" -l listen -d 'Where to listen: host:port or unix:/path; may be repeated; replaces the file\'s list' -r
complete -c cloudchat -n "__fish_cloudchat_using_subcommand demo" -l data-dir -d 'Folder for the stored data' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand demo" -s h -l help -d 'Print help'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand backup" -l keep -d 'Make a folder named by the time in DEST, and remove all but the newest N there' -r
complete -c cloudchat -n "__fish_cloudchat_using_subcommand backup" -l config -d 'Configuration file, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand backup" -l data-dir -d 'Folder for the stored data, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand backup" -l replace -d 'Replace DEST if it is a backup; it is there all the time'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand backup" -s h -l help -d 'Print help'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand restore" -l config -d 'Configuration file, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand restore" -l data-dir -d 'Folder for the stored data, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand restore" -s h -l help -d 'Print help'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand migrate" -l config -d 'Configuration file, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand migrate" -l dry-run -d 'Only tell what would be done: reads the catalogues and locks no table'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand migrate" -s h -l help -d 'Print help'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand reload" -l pid -d 'Process id of the server' -r
complete -c cloudchat -n "__fish_cloudchat_using_subcommand reload" -s h -l help -d 'Print help'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and not __fish_seen_subcommand_from list show create disable enable delete set-password end-sessions help" -l config -d 'Configuration file, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and not __fish_seen_subcommand_from list show create disable enable delete set-password end-sessions help" -l data-dir -d 'Folder for the stored data, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and not __fish_seen_subcommand_from list show create disable enable delete set-password end-sessions help" -l json -d 'Print JSON'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and not __fish_seen_subcommand_from list show create disable enable delete set-password end-sessions help" -s h -l help -d 'Print help'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and not __fish_seen_subcommand_from list show create disable enable delete set-password end-sessions help" -f -a "list" -d 'Print all users, in the order of their ids'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and not __fish_seen_subcommand_from list show create disable enable delete set-password end-sessions help" -f -a "show" -d 'Print a user, with the number of its sessions'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and not __fish_seen_subcommand_from list show create disable enable delete set-password end-sessions help" -f -a "create" -d 'Make a user; the password is asked for, or read as a line from stdin; sends no mail'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and not __fish_seen_subcommand_from list show create disable enable delete set-password end-sessions help" -f -a "disable" -d 'Let a user log in no more, and end its sessions'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and not __fish_seen_subcommand_from list show create disable enable delete set-password end-sessions help" -f -a "enable" -d 'Let a user log in again'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and not __fish_seen_subcommand_from list show create disable enable delete set-password end-sessions help" -f -a "delete" -d 'Delete a user with its sessions and chats, for good'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and not __fish_seen_subcommand_from list show create disable enable delete set-password end-sessions help" -f -a "set-password" -d 'Replace a user\'s password, end its sessions, and tell the user by mail; the new one is asked for, or read as a line from stdin'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and not __fish_seen_subcommand_from list show create disable enable delete set-password end-sessions help" -f -a "end-sessions" -d 'End a user\'s sessions; it may log in again'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and not __fish_seen_subcommand_from list show create disable enable delete set-password end-sessions help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from list" -l config -d 'Configuration file, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from list" -l data-dir -d 'Folder for the stored data, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from list" -l json -d 'Print JSON'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from show" -l config -d 'Configuration file, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from show" -l data-dir -d 'Folder for the stored data, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from show" -l json -d 'Print JSON'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from create" -l phone -r
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from create" -l display-name -r
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from create" -l config -d 'Configuration file, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from create" -l data-dir -d 'Folder for the stored data, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from create" -l json -d 'Print JSON'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from create" -s h -l help -d 'Print help'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from disable" -l config -d 'Configuration file, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from disable" -l data-dir -d 'Folder for the stored data, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from disable" -l json -d 'Print JSON'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from disable" -s h -l help -d 'Print help'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from enable" -l config -d 'Configuration file, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from enable" -l data-dir -d 'Folder for the stored data, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from enable" -l json -d 'Print JSON'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from enable" -s h -l help -d 'Print help'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from delete" -l config -d 'Configuration file, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from delete" -l data-dir -d 'Folder for the stored data, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from delete" -l yes -d 'Do not ask'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from delete" -l json -d 'Print JSON'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from delete" -s h -l help -d 'Print help'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from set-password" -l config -d 'Configuration file, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from set-password" -l data-dir -d 'Folder for the stored data, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from set-password" -l json -d 'Print JSON'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from set-password" -s h -l help -d 'Print help'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from end-sessions" -l config -d 'Configuration file, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from end-sessions" -l data-dir -d 'Folder for the stored data, as for serve' -r -F
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from end-sessions" -l json -d 'Print JSON'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from end-sessions" -s h -l help -d 'Print help'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from help" -f -a "list" -d 'Print all users, in the order of their ids'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from help" -f -a "show" -d 'Print a user, with the number of its sessions'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from help" -f -a "create" -d 'Make a user; the password is asked for, or read as a line from stdin; sends no mail'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from help" -f -a "disable" -d 'Let a user log in no more, and end its sessions'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from help" -f -a "enable" -d 'Let a user log in again'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from help" -f -a "delete" -d 'Delete a user with its sessions and chats, for good'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from help" -f -a "set-password" -d 'Replace a user\'s password, end its sessions, and tell the user by mail; the new one is asked for, or read as a line from stdin'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from help" -f -a "end-sessions" -d 'End a user\'s sessions; it may log in again'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand user; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor example-config demo backup restore migrate reload user help" -f -a "serve" -d 'Run the server'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor example-config demo backup restore migrate reload user help" -f -a "check" -d 'Tell whether a configuration would start, print the memory sum and every limit, and look at the database'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor example-config demo backup restore migrate reload user help" -f -a "doctor" -d 'Look for what breaks a server in practice, and print the lines that fix it'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor example-config demo backup restore migrate reload user help" -f -a "example-config" -d 'Print a configuration file with every key, its default and why it is there'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor example-config demo backup restore migrate reload user help" -f -a "demo" -d 'Run the server with a simulated model: nothing to configure, nothing to install'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor example-config demo backup restore migrate reload user help" -f -a "backup" -d 'Copy the data folder\'s files, also while the server runs, and check the copies'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor example-config demo backup restore migrate reload user help" -f -a "restore" -d 'Put a backup in the place of the data folder\'s files, which are kept; the server must not run'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor example-config demo backup restore migrate reload user help" -f -a "migrate" -d 'Make or update the tables in PostgreSQL, also while servers run'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor example-config demo backup restore migrate reload user help" -f -a "reload" -d 'Have a running server replaced by a new process, without losing a request; waits for the outcome'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor example-config demo backup restore migrate reload user help" -f -a "user" -d 'Look at and change accounts on the server\'s store, also while the server runs'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor example-config demo backup restore migrate reload user help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand help; and __fish_seen_subcommand_from user" -f -a "list" -d 'Print all users, in the order of their ids'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand help; and __fish_seen_subcommand_from user" -f -a "show" -d 'Print a user, with the number of its sessions'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand help; and __fish_seen_subcommand_from user" -f -a "create" -d 'Make a user; the password is asked for, or read as a line from stdin; sends no mail'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand help; and __fish_seen_subcommand_from user" -f -a "disable" -d 'Let a user log in no more, and end its sessions'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand help; and __fish_seen_subcommand_from user" -f -a "enable" -d 'Let a user log in again'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand help; and __fish_seen_subcommand_from user" -f -a "delete" -d 'Delete a user with its sessions and chats, for good'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand help; and __fish_seen_subcommand_from user" -f -a "set-password" -d 'Replace a user\'s password, end its sessions, and tell the user by mail; the new one is asked for, or read as a line from stdin'
complete -c cloudchat -n "__fish_cloudchat_using_subcommand help; and __fish_seen_subcommand_from user" -f -a "end-sessions" -d 'End a user\'s sessions; it may log in again'
