//! Files as people write them, with what the server has to make of each, in `config_trials/`.
//!
//! Beside an input is a file with the same name and `.expected`. Its lines are:
//!
//! - `command`: the arguments of `pooltime-xdp` before the input;
//! - `exit`: the exit status;
//! - `out` and `comment`: a part of standard output, outside of comments and in one;
//! - `not-out`: what must not be in standard output outside of comments;
//! - `err`: a part of standard error.
//!
//! Nothing here needs root, and no server is asked.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use testlab::{Output, pooltime_xdp};

/// Words of the programming language, which nobody who writes a configuration knows.
const JARGON: [&str; 6] = ["u32", "u16", "sequence", "os error", "invalid type", "unknown field"];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config_trials")
}

/// Runs a command in the directory of the inputs, which name each other without a path.
fn pooltime(arguments: &[&str]) -> Output {
    Output::of(Command::new(pooltime_xdp()).current_dir(directory()).args(arguments))
}

fn names() -> BTreeSet<String> {
    let entries = fs::read_dir(directory()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_input_has_the_result_that_is_written_beside_it() {
    let names = names();
    let inputs: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix(".expected")).collect();
    assert!(inputs.len() > 60, "{}", inputs.len());
    let complaints: Vec<String> = inputs.iter().filter_map(|input| complaint(input)).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Returns what is wrong with the result of an input, or `None` if it is right.
fn complaint(input: &str) -> Option<String> {
    let expected = fs::read_to_string(directory().join(format!("{input}.expected"))).unwrap();
    let lines: Vec<(&str, &str)> = expected.lines().map(|line| line.split_once(": ").unwrap()).collect();
    let of = |name: &str| {
        lines.iter().filter(|(key, _)| *key == name).map(|(_, value)| *value).collect::<Vec<_>>()
    };
    let known = ["command", "exit", "out", "not-out", "comment", "err"];
    assert!(lines.iter().all(|(key, _)| known.contains(key)), "{input}.expected: {lines:?}");

    let mut arguments: Vec<&str> = of("command")[0].split_whitespace().collect();
    arguments.push(input);
    let output = pooltime(&arguments);
    let is_comment = |line: &&str| line.starts_with('#');
    let (comments, active): (Vec<&str>, Vec<&str>) = output.stdout.lines().partition(is_comment);
    let (comments, active) = (comments.join("\n"), active.join("\n"));
    let mut wrong = Vec::new();
    if output.code() != Some(of("exit")[0].parse().unwrap()) {
        wrong.push(format!("exit status {:?}", output.code()));
    }
    for (text, name) in [(&active, "out"), (&comments, "comment"), (&output.stderr, "err")] {
        wrong.extend(
            of(name).iter().filter(|part| !text.contains(**part)).map(|part| format!("no {name}: {part}")),
        );
    }
    wrong.extend(
        of("not-out").iter().filter(|part| active.contains(**part)).map(|part| format!("out: {part}")),
    );
    wrong.extend(
        JARGON.iter().filter(|word| output.stderr.contains(**word)).map(|word| format!("err: {word}")),
    );
    if arguments[0] == "import" && output.code() == Some(0) {
        let made = std::env::temp_dir().join(format!("pooltime-trial-{}-{input}.toml", std::process::id()));
        fs::write(&made, &output.stdout).unwrap();
        let checked = pooltime(&["config", "check", made.to_str().unwrap()]);
        fs::remove_file(&made).unwrap();
        if checked.code() != Some(0) {
            wrong.push(format!("what was imported is refused: {}", checked.stderr));
        }
    }
    (!wrong.is_empty()).then(|| format!("{input}: {wrong:#?} in:\n{output:#?}"))
}

/// Without rights, `run` gets as far as reading its file and no further. So this needs no root, and as root it changes
/// nothing.
#[test]
fn run_refuses_the_files_that_the_check_refuses_with_the_same_words_and_no_others() {
    const EX_NOPERM: i32 = 77;
    let unprivileged = Unprivileged::new();
    let mut refused = 0;
    for input in names().iter().filter_map(|name| name.strip_suffix(".expected")) {
        let expected = fs::read_to_string(directory().join(format!("{input}.expected"))).unwrap();
        // The daemon reads the files of access lists when it has started.
        if !expected.starts_with("command: config check") || input.starts_with("access-list") {
            continue;
        }
        let checked = pooltime(&["config", "check", input]);
        let run = unprivileged.run(input);
        if checked.code() == Some(0) {
            assert_eq!(run.code(), Some(EX_NOPERM), "{input}: {run:#?}");
            continue;
        }
        refused += 1;
        assert_eq!((run.code(), &run.stderr), (checked.code(), &checked.stderr), "{input}");
    }
    assert!(refused > 20, "{refused}");
}

/// A copy of the program and of the inputs that a user without rights can read.
struct Unprivileged(PathBuf);

impl Unprivileged {
    fn new() -> Self {
        let copy = std::env::temp_dir().join(format!("pooltime-trials-{}", std::process::id()));
        fs::create_dir_all(&copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(pooltime_xdp(), copy.join("pooltime-xdp")).unwrap();
        for name in names() {
            fs::copy(directory().join(&name), copy.join(&name)).unwrap();
        }
        Self(copy)
    }

    fn run(&self, input: &str) -> Output {
        let program = self.0.join("pooltime-xdp");
        let mut command = if nix::unistd::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        Output::of(command.args(["run", "--config", input]).current_dir(&self.0))
    }
}

impl Drop for Unprivileged {
    fn drop(&mut self) {
        let _not_there = fs::remove_dir_all(&self.0);
    }
}

/// A list that nothing names would be tested by nobody.
#[test]
fn every_file_is_an_input_or_is_named_by_one() {
    let names = names();
    for name in names.iter().filter(|name| !name.ends_with(".expected")) {
        let is_input = names.contains(&format!("{name}.expected"));
        let is_named = || {
            let mut inputs = names.iter().filter_map(|other| other.strip_suffix(".expected"));
            inputs.any(|other| {
                fs::read(directory().join(other))
                    .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(name.as_str()))
            })
        };
        assert!(is_input || is_named(), "{name}");
    }
}
