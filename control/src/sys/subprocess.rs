//! Runs other programs within limits of time and output.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(3);
/// Largest output that is read; the rulesets of whole countries are smaller.
const MOST_BYTES: u64 = 8 << 20;

/// The outcome of running a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProgramOutput {
    /// The program is not installed.
    NotInstalled,
    /// The program succeeded with this output.
    Text(String),
    /// The program failed for this reason.
    Failed(String),
}

/// Runs one of the system's programs to its end and returns its output.
pub(crate) fn ask(program: &str, arguments: &[&str]) -> ProgramOutput {
    match find(program) {
        Some(path) => run(&path, arguments, PATIENCE),
        None => ProgramOutput::NotInstalled,
    }
}

/// Finds a program. The path of ordinary users often has no sbin, so that is searched as well.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

fn run(program: &Path, arguments: &[&str], patience: Duration) -> ProgramOutput {
    let failed = |error: std::io::Error| ProgramOutput::Failed(format!("{}: {error}", program.display()));
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C");
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return failed(error),
    };
    let said = read_aside(child.stdout.take());
    let complained = read_aside(child.stderr.take());
    let deadline = Instant::now() + patience;
    let left = || deadline.saturating_duration_since(Instant::now());
    // The output ends when the program ends or is killed.
    let output = said.recv_timeout(left()).ok();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if !left().is_zero() => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) | Err(_) => break None,
        }
    };
    let (Some(output), Some(status)) = (output, status) else {
        let _ended_already = child.kill();
        let _ended = child.wait();
        return ProgramOutput::Failed(format!(
            "{} did not finish within {} s",
            program.display(),
            patience.as_secs()
        ));
    };
    if status.success() {
        return ProgramOutput::Text(output);
    }
    let complaint = complained.recv_timeout(left()).unwrap_or_default();
    let first = complaint.lines().next().unwrap_or_default().trim();
    ProgramOutput::Failed(if first.is_empty() {
        format!("{}: {status}", program.display())
    } else {
        first.to_owned()
    })
}

/// Reads a pipe on a thread, which ends with the pipe.
fn read_aside(pipe: Option<impl std::io::Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            let _as_far_as_it_goes = pipe.take(MOST_BYTES).read_to_end(&mut bytes);
        }
        let _nobody_waits = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, patience: Duration) -> ProgramOutput {
        run(Path::new("/bin/sh"), &["-c", script], patience)
    }

    #[test]
    fn what_a_program_says_is_taken_and_why_it_fails() {
        assert_eq!(shell("echo rules", PATIENCE), ProgramOutput::Text("rules\n".into()));
        let failed = shell("echo 'netlink: Permission denied' >&2; echo more >&2; exit 1", PATIENCE);
        assert_eq!(failed, ProgramOutput::Failed("netlink: Permission denied".into()));
        assert_eq!(ask("no-such-program-anywhere", &[]), ProgramOutput::NotInstalled);
    }

    #[test]
    fn a_program_that_hangs_or_never_stops_talking_is_ended() {
        let start = Instant::now();
        for script in
            ["exec sleep 60", "exec >&- 2>&-; exec sleep 60", "while :; do echo more and more; done"]
        {
            let asked = shell(script, Duration::from_millis(300));
            assert!(matches!(asked, ProgramOutput::Failed(_)), "{script}: {asked:?}");
        }
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
