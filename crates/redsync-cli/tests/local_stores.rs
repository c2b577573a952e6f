//! Where no nodes are named: whose locks these are, who is told of that, and what is refused.

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use redsync_testkit::RedisServer;
use rustix::process::geteuid;
use support::{Machine, Outcome, finish, locks_on};

fn user_name() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn note() -> String {
    format!(
        "redsync: locking for user {} on this machine only; --machine locks for all its users; to lock across machines, \
         name nodes with --node or REDSYNC_NODES\n",
        user_name()
    )
}

#[test]
fn whose_locks_they_are_is_told_once_for_each_store_or_to_whoever_asks() {
    let machine = Machine::new();
    let quiet = machine.run_sh("--quiet backup", "true");
    assert_eq!((quiet.code, quiet.stderr.as_str()), (Some(0), ""), "{quiet}");
    let first = machine.run_sh("backup", "true");
    assert_eq!((first.code, first.stderr), (Some(0), note()));
    let second = machine.run_sh("other", "true");
    assert_eq!((second.code, second.stderr.as_str()), (Some(0), ""), "{second}");
    let asked = machine.run_sh("-v backup", "true");
    assert!(asked.stderr.contains(&note()), "{asked}");
    let mut command = machine.command(["run", "backup", "--", "true"]);
    let another_store = finish(command.env("XDG_STATE_HOME", machine.path("elsewhere")));
    assert_eq!(another_store.stderr, note());
}

#[test]
fn status_says_which_store_was_looked_at() {
    let machine = Machine::new();
    let path = machine.path("state/redsync/locks.db");
    let text = machine.redsync(["status", "-q", "backup"]);
    let line = format!("store of user {} only: {}", user_name(), path.display());
    assert!(text.stdout.contains(&line), "{text}");
    let json = machine.redsync(["status", "-q", "--json", "backup"]);
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["store"]["scope"], "user");
    assert_eq!(value["store"]["path"], path.to_str().unwrap());
    assert_eq!(value["store"]["uid"], geteuid().as_raw());

    let server = RedisServer::start();
    let fleet = Machine::with_nodes([&server]).redsync(["status", "--json", "backup"]);
    let value: serde_json::Value = serde_json::from_str(&fleet.stdout).unwrap();
    assert!(value["store"].is_null(), "{fleet}");
}

#[test]
fn a_list_of_nodes_that_names_none_is_64_and_takes_no_local_lock() {
    let machine = Machine::new();
    for list in ["", " ", ",", " , ;\n", "\t"] {
        for arguments in [
            vec!["run", "-q", "backup", "--", "touch", "ran"],
            vec!["lock", "backup"],
            vec!["status", "backup"],
            vec!["run", "--json", "backup", "--", "touch", "ran"],
        ] {
            let outcome = finish(machine.command(&arguments).env("REDSYNC_NODES", list));
            assert_eq!(outcome.code, Some(64), "{list:?}: {outcome}");
            let said = "REDSYNC_NODES is set but names no node; name them, as in redis://HOST1,redis://HOST2,\
                        redis://HOST3, or unset it to lock on this machine only";
            assert!(outcome.stderr.contains(said), "{list:?}: {outcome}");
        }
    }
    assert!(!machine.path("ran").exists());
    assert!(!machine.path("state").exists());
    let named =
        ["run", "-q", "--node", &format!("sqlite://{}", machine.path("x.db").display()), "n", "--", "true"];
    let outcome = finish(machine.command(named).env("REDSYNC_NODES", ""));
    assert_eq!(outcome.code, Some(0), "{outcome}");
}

#[test]
fn commas_semicolons_blanks_and_newlines_separate_nodes() {
    let servers = [RedisServer::start(), RedisServer::start(), RedisServer::start()];
    let [a, b, c] = servers.each_ref().map(RedisServer::url);
    for list in [
        format!("{a},{b},{c}"),
        format!(" {a} {b}\t{c} "),
        format!("{a}\n{b}\n{c}\n"),
        format!("{a}; {b} ;{c};"),
    ] {
        let machine = Machine::with_urls(&list);
        let lease = machine.lock("backup");
        for server in &servers {
            assert!(!locks_on(server).is_empty(), "{list:?}");
        }
        let unlocked = machine.redsync(["unlock", &lease]);
        assert_eq!(unlocked.code, Some(0), "{unlocked}");
    }
}

#[test]
fn hosts_that_lack_their_scheme_are_64() {
    for list in ["redis://10.0.0.1,10.0.0.2:6379", "redis://:hunter2@db-1;db-2", "redis://db-1 db-2"] {
        let outcome = Machine::with_urls(list).redsync(["status", "backup"]);
        assert_eq!(outcome.code, Some(64), "{outcome}");
        assert!(
            outcome.stderr.contains("write a scheme before each: redis://HOST1,redis://HOST2"),
            "{outcome}"
        );
        assert!(!outcome.stderr.contains("hunter2"), "{outcome}");
    }
}

#[test]
fn the_store_of_the_machine_and_nodes_exclude_each_other_and_the_command_line_comes_first() {
    let machine = Machine::new();
    let url = format!("sqlite://{}", machine.path("named.db").display());
    let both = machine.redsync(["status", "--machine", "--node", &url, "backup"]);
    assert_eq!(both.code, Some(64), "{both}");
    assert!(both.stderr.contains("--machine and --node cannot be used together"), "{both}");

    let mut command = machine.command(["status", "backup"]);
    let contradictory = finish(command.env("REDSYNC_NODES", &url).env("REDSYNC_MACHINE", "1"));
    assert_eq!(contradictory.code, Some(64), "{contradictory}");
    assert!(
        contradictory.stderr.contains("REDSYNC_NODES and REDSYNC_MACHINE are both set"),
        "{contradictory}"
    );

    let mut command = machine.command(["run", "-q", "--node", &url, "backup", "--", "true"]);
    let option = finish(command.env("REDSYNC_MACHINE", "1"));
    assert_eq!(option.code, Some(0), "{option}");
    assert!(machine.path("named.db").exists());

    for value in ["yes", "2", " 1"] {
        let outcome = finish(machine.command(["status", "backup"]).env("REDSYNC_MACHINE", value));
        assert_eq!(outcome.code, Some(64), "{outcome}");
        assert!(outcome.stderr.contains("it can be 1 or 0"), "{outcome}");
    }
    for value in ["", "0"] {
        let outcome = finish(machine.command(["status", "-q", "backup"]).env("REDSYNC_MACHINE", value));
        assert_eq!(outcome.code, Some(0), "{outcome}");
        assert!(outcome.stdout.contains("store of user"), "{outcome}");
    }
}

#[test]
fn a_shared_file_has_its_mode_whatever_the_umask() {
    let machine = Machine::new();
    let outcome = finish(&mut machine.shell(
        "umask 077; exec \"$redsync\" run -q --node \"sqlite://$PWD/locks.db?mode=0660\" backup -- stat -c %a \
         locks.db locks.db-wal locks.db-shm",
    ));
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), "660\n660\n660\n"), "{outcome}");
    let refused = machine.redsync(["status", "--node", "sqlite:///locks.db?mode=0777", "backup"]);
    assert_eq!(refused.code, Some(64), "{refused}");
    assert!(refused.stderr.contains("0600, 0660 or 0666"), "{refused}");
}

#[test]
fn the_users_own_files_are_closed_to_others_and_so_is_their_directory() {
    let machine = Machine::new();
    machine.lock("backup");
    let directory = machine.path("state/redsync");
    let mode = |path: PathBuf| fs::metadata(path).unwrap().mode() & 0o777;
    for name in ["locks.db", "locks.db-wal", "locks.db-shm"] {
        // As former versions left them.
        fs::set_permissions(directory.join(name), Permissions::from_mode(0o644)).unwrap();
    }
    fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();

    machine.lock("other");

    for name in ["locks.db", "locks.db-wal", "locks.db-shm"] {
        assert_eq!(mode(directory.join(name)), 0o600, "{name}");
    }
    assert_eq!(mode(directory), 0o700);
}

#[test]
fn a_home_that_is_not_there_is_not_made() {
    let machine = Machine::new();
    let home = machine.path("nobody/home");
    let script = "mount -t tmpfs home /root || exit 99; \
                  XDG_STATE_HOME= HOME=$PWD/nobody/home $redsync run backup -- true; echo code $?; ls -A /root";
    let outcome = privately(&machine, script);
    assert!(outcome.stdout.contains("code 0\n.local\n"), "{outcome}");
    let said = format!(
        "HOME is not used: there is no directory {}; local locks are in /root/.local/state/redsync",
        home.display()
    );
    assert!(outcome.stderr.contains(&said), "{outcome}");
    assert!(!machine.path("nobody").exists());
}

#[test]
fn nothing_is_made_in_the_home_of_another_user() {
    let machine = Machine::new();
    let script = "mount -t tmpfs home /root || exit 99; \
                  mkdir home && chown 65534 home; \
                  XDG_STATE_HOME= HOME=$PWD/home $redsync run backup -- true; echo code $?; \
                  XDG_STATE_HOME=$PWD/home/state $redsync run backup -- true; echo code $?; \
                  ls -A home; \
                  mkdir -m 777 open taken; mkdir -m 777 taken/redsync; \
                  for state in open taken; do XDG_STATE_HOME=$PWD/$state HOME= nobody ./redsync status -q backup; echo code $?; done; \
                  chown 2000 home; XDG_STATE_HOME= HOME=$PWD/home nobody ./redsync status -q backup; echo code $?";
    let outcome = privately(&machine, script);
    let codes: Vec<&str> = outcome.stdout.lines().filter(|line| line.starts_with("code")).collect();
    // What belongs to root and is open to all is used; a directory in it that is not the user's own is not.
    assert_eq!(codes, ["code 0", "code 0", "code 0", "code 73", "code 73"], "{outcome}");
    for said in [
        "HOME is not used: ",
        "XDG_STATE_HOME is not used: ",
        "belongs to user nobody, and this runs as user root; local locks are in /root/.local/state/redsync",
        "belongs to user root, and this runs as user nobody; set XDG_STATE_HOME",
        "belongs to user 2000, and this runs as user nobody",
    ] {
        assert!(outcome.stderr.contains(said), "{said}: {outcome}");
    }
}

/// Runs a script as root in a mount namespace of its own, in which `/run/lock` is that of a machine that was just started.
/// In it, `nobody COMMAND` runs a command as another user, for whom `./redsync` is there.
///
/// Fails where this is not permitted.
#[track_caller]
fn privately(machine: &Machine, script: &str) -> Outcome {
    const NEEDS: &str = "this test needs root, unshare(1), setpriv(1) and the right to mount a tmpfs: run it as root, as CI \
                         does, and in a container with CAP_SYS_ADMIN";
    assert!(geteuid().is_root(), "{NEEDS}");
    let prelude = "set -u; mount -t tmpfs -o mode=1777,size=5m lock /run/lock || exit 99; \
                   nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"; }; \
                   second() { setpriv --reuid=2000 --regid=2000 --clear-groups \"$@\"; }; \
                   root() { \"$@\"; }; ";
    let copy = machine.path("redsync");
    fs::copy(env!("CARGO_BIN_EXE_redsync"), &copy).unwrap();
    fs::set_permissions(copy.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(copy, Permissions::from_mode(0o755)).unwrap();
    // The mark shows that unshare(1) itself has succeeded.
    let mut command = machine.shell("exec unshare --mount sh -c \"echo unshared >&2; $script\"");
    let mut outcome = finish(command.env("script", format!("{prelude}{script}")));
    let said = outcome.stderr.strip_prefix("unshared\n").map(str::to_owned);
    assert!(said.is_some() && ![Some(99), Some(127)].contains(&outcome.code), "{NEEDS}; {outcome}");
    outcome.stderr = said.unwrap_or_default();
    outcome
}

#[test]
fn users_of_one_machine_exclude_each_other_in_whatever_order_they_come() {
    for (first, second) in
        [("nobody", "root"), ("root", "nobody"), ("nobody", "second"), ("second", "nobody")]
    {
        let machine = Machine::new();
        let script = format!(
            "umask 077; \
             lease=$({first} ./redsync lock --machine --expiry 1m backup); \
             {second} ./redsync run --try --machine backup -- echo WRONG; echo code $?; \
             REDSYNC_MACHINE=1 {second} ./redsync run --try backup -- echo WRONG; echo code $?; \
             {first} ./redsync status --machine backup; \
             {second} ./redsync unlock --machine \"$lease\"; echo code $?; \
             {second} ./redsync run --try --machine backup -- echo right; echo code $?; \
             {first} ./redsync run --try --machine backup -- echo right; echo code $?; \
             stat -c '%a %n' /run/lock/redsync /run/lock/redsync/*; ls -A /run/lock"
        );
        let outcome = privately(&machine, &script);
        let lines: Vec<&str> = outcome.stdout.lines().collect();
        assert_eq!(lines[..2], ["code 75", "code 75"], "{first}, {second}: {outcome}");
        assert!(lines[2].starts_with("backup is held by"), "{first}, {second}: {outcome}");
        let store = "store of all users of this machine: /run/lock/redsync/locks.db";
        assert!(lines[3].contains(store), "{first}, {second}: {outcome}");
        assert_eq!(
            lines[4..],
            [
                "code 0",
                "right",
                "code 0",
                "right",
                "code 0",
                "755 /run/lock/redsync",
                "666 /run/lock/redsync/locks.db",
                "666 /run/lock/redsync/locks.db-shm",
                "666 /run/lock/redsync/locks.db-wal",
                "redsync",
            ],
            "{first}, {second}: {outcome}"
        );
        let told = outcome.stderr.matches("redsync: locking for all users of this machine").count();
        assert_eq!(told, 1, "{first}, {second}: {outcome}");
    }
}

#[test]
fn users_who_come_at_once_make_one_store() {
    let machine = Machine::new();
    let script = "count() { for i in 1 2 3 4 5 6 7 8; do $1 ./redsync run -q --machine n -- sh -c \
                  'n=$(cat count); echo $((n + 1)) > count' & done; }; \
                  echo 0 > count; chmod 666 count; count nobody; count root; count second; wait; cat count";
    let outcome = privately(&machine, script);
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("24\n", ""), "{outcome}");
}

#[test]
fn what_a_user_puts_in_the_place_of_the_store_is_refused_or_taken_over_and_leads_nowhere() {
    let machine = Machine::new();
    let script = "try() { $1 ./redsync run -q --machine n -- echo ran; echo code $?; rm -rf /run/lock/redsync; }; \
                  echo secret > secret; \
                  nobody ln -s $PWD /run/lock/redsync; try root; \
                  nobody mkdir /run/lock/redsync; nobody ln -s $PWD/secret /run/lock/redsync/locks.db; try root; \
                  nobody mkdir /run/lock/redsync; nobody ln -s $PWD/new /run/lock/redsync/locks.db-wal; try root; \
                  nobody mkdir -m 777 /run/lock/redsync; try second; \
                  nobody mkdir -m 777 /run/lock/redsync; \
                  ./redsync run -q --machine n -- stat -c '%U %a' /run/lock/redsync; try second; \
                  touch /run/lock/redsync; try root; \
                  cat secret; ls -A";
    let outcome = privately(&machine, script);
    let refused = ["code 73"; 4];
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines[..4], refused, "{outcome}");
    assert_eq!(lines[4..8], ["root 755", "ran", "code 0", "code 73"], "{outcome}");
    assert_eq!(lines[8..], ["secret", "redsync", "secret"], "{outcome}");
    for said in [
        "/run/lock/redsync is no directory; remove it as root",
        "/run/lock/redsync/locks.db cannot be opened: it is a symbolic link",
        "/run/lock/redsync/locks.db-wal cannot be opened: it is a symbolic link",
        "/run/lock/redsync may be changed by other users; correct that as root",
    ] {
        assert!(outcome.stderr.contains(said), "{said}: {outcome}");
    }
}

#[test]
fn where_the_directory_for_locks_is_missing_or_roots_alone_it_says_what_to_do() {
    let machine = Machine::new();
    let script = "umount /run/lock; mount -t tmpfs run /run; ./redsync status --machine n; echo code $?; \
                  mkdir -m 755 /run/lock; nobody ./redsync status --machine n; echo code $?; \
                  ./redsync status -q --machine n; echo code $?; nobody ./redsync run -q --machine n -- true; echo code $?; \
                  rm -r /run/lock/redsync; chmod 777 /run/lock; ./redsync status -q --machine n; echo code $?";
    let outcome = privately(&machine, script);
    let codes: Vec<&str> = outcome.stdout.lines().filter(|line| line.starts_with("code")).collect();
    assert_eq!(codes, ["code 73", "code 73", "code 0", "code 0", "code 73"], "{outcome}");
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    for part in [
        "there is no directory /run/lock for the store of all users; create it as root (install -d -m 1777 /run/lock)",
        "only root may create the store here: run `redsync status --machine NAME` as root",
        "/run/lock must belong to root, and be sticky",
    ] {
        assert!(said.contains(part), "{part}: {outcome}");
    }
}

#[test]
fn a_disk_that_gets_full_ends_no_job_and_an_empty_store_on_one_says_so() {
    let machine = Machine::new();
    let script = "mkdir state full && mount -t tmpfs -o size=3m disk state && mount -t tmpfs -o size=1m disk full || exit 99; \
                  ./redsync run -q --expiry 1s job -- sh -c \
                  'dd if=/dev/zero of=state/fill bs=4k 2> /dev/null; echo x 2> /dev/null > state/more && echo NOT FULL; \
                   ./redsync run -q --try job -- echo WRONG; echo code $?; sleep 4; echo survived'; echo code $?; \
                  rm state/*; \
                  dd if=/dev/zero of=/run/lock/fill bs=4k count=900 2> /dev/null; \
                  ./redsync run -q --machine --expiry 1s job -- sh -c \
                  'dd if=/dev/zero of=/run/lock/fill2 bs=4k 2> /dev/null; sleep 4; echo survived'; echo code $?; \
                  dd if=/dev/zero of=full/fill bs=4k 2> /dev/null; \
                  ./redsync run -q --node sqlite://$PWD/full/locks.db job -- echo WRONG; echo code $?";
    let outcome = privately(&machine, script);
    let expected = ["code 75", "survived", "code 0", "survived", "code 0", "code 73"];
    assert_eq!(outcome.stdout.lines().collect::<Vec<_>>(), expected, "{outcome}");
    assert!(outcome.stderr.contains("full"), "{outcome}");
}
