//! The example `paused_holder` goes as it is told: without fences the late write destroys an update, with them it is refused.

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/paused_holder.rs");

/// The program, which cargo builds before it runs all tests, but not where it is asked for this file alone.
fn program() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push(format!("examples/paused_holder{}", std::env::consts::EXE_SUFFIX));
    let build = "build it: cargo build -p redsync --example paused_holder";
    let built = path.metadata().unwrap_or_else(|error| panic!("{}: {error}; {build}", path.display()));
    let written = std::fs::metadata(SOURCE).unwrap();
    assert!(built.modified().unwrap() >= written.modified().unwrap(), "{} is old; {build}", path.display());
    path
}

/// What the example prints, without and with fences.
static TOLD: LazyLock<[String; 2]> = LazyLock::new(|| {
    let ran = Command::new(program()).output().unwrap();
    let told = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success(), "{}: {told}{}", ran.status, String::from_utf8_lossy(&ran.stderr));
    let (without, with) = told.split_once("WITH FENCES").expect("it is told twice");
    [without.to_owned(), with.to_owned()]
});

/// Each of `steps` is told, in this order.
#[track_caller]
fn assert_in_order(told: &str, steps: &[&str]) {
    let mut rest = told;
    for step in steps {
        rest = rest.split_once(step).unwrap_or_else(|| panic!("{step:?} is missing in its place:\n{told}")).1;
    }
}

#[test]
fn without_fences_a_late_write_destroys_an_update() {
    let [without, _] = &*TOLD;
    assert_in_order(
        without,
        &[
            "A has the lock, and reads 100\n",
            "A asks whether it still has the lock: yes. It is about to write 110\n",
            "A is paused",
            "B has the lock, and reads 100\n",
            "B writes 150\n",
            "A goes on\n",
            "A writes 110\n",
            "There is 110 in the account, and not 160",
        ],
    );
}

#[test]
fn with_fences_a_late_write_is_refused_and_both_updates_stay() {
    let [_, with] = &*TOLD;
    assert_in_order(
        with,
        &[
            "A has the lock, with fence ",
            ", and reads 100\n",
            "A asks whether it still has the lock: yes. It is about to write 110\n",
            "A is paused",
            "B has the lock, with fence ",
            ", and reads 100\n",
            "B writes 150\n",
            "A goes on\n",
            "A writes 110, and is refused: a later fence was there. It begins from the start\n",
            "A has the lock, with fence ",
            ", and reads 150\n",
            "A writes 160\n",
            "There is 160 in the account",
        ],
    );
}

#[test]
fn the_fences_of_the_three_holders_grow() {
    let [_, with] = &*TOLD;
    let fences = with.split("with fence ").skip(1).map(|rest| rest.split_once(',').unwrap().0);
    let fences: Vec<redsync::Fence> = fences.map(|fence| fence.parse().unwrap()).collect();
    assert!(fences.len() == 3 && fences.is_sorted_by(|earlier, later| earlier < later), "{fences:?}");
}
