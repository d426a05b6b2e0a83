//! The commands of a document.
//!
//! A block of them is opened by the mark `sh HOST STEP`: where they are run, and what the step is called here. Other blocks
//! have no commands, and the mark `toml` or `text`.

use std::collections::BTreeSet;

/// Where the operator types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// Where the sources are.
    Build,
    Server,
    /// Anybody else's.
    Another,
}

/// A block of commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) host: Host,
    pub(crate) name: String,
    pub(crate) commands: String,
}

/// All of them, in order; or what is wrong with the document.
pub(crate) fn steps(document: &str) -> Result<Vec<Step>, String> {
    let mut steps: Vec<Step> = Vec::new();
    let mut prose = String::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        let Some(mark) = line.trim_start().strip_prefix("```") else {
            prose += line;
            prose.push('\n');
            continue;
        };
        let block: Vec<_> = lines.by_ref().take_while(|line| line.trim_start() != "```").collect();
        match mark.split_whitespace().collect::<Vec<_>>()[..] {
            ["toml" | "text"] => {}
            ["sh", host, name] => {
                let host = match host {
                    "build" => Host::Build,
                    "server" => Host::Server,
                    "another" => Host::Another,
                    _ => return Err(format!("{line}: no such host")),
                };
                if steps.iter().any(|step| step.name == name) {
                    return Err(format!("{line}: there are two steps of this name"));
                }
                steps.push(Step { host, name: name.into(), commands: block.join("\n") });
            }
            _ => return Err(format!("{line}: is this \"```sh HOST STEP\", \"```toml\" or \"```text\"?")),
        }
    }
    match untried(&prose, &steps) {
        None => Ok(steps),
        Some(command) => Err(format!("`{command}` is in no block, so that nothing runs it")),
    }
}

/// A command in the prose that is not one of a block: what begins as one of these does and has arguments.
fn untried(prose: &str, steps: &[Step]) -> Option<String> {
    let mut lines = Vec::new();
    for step in steps {
        let mut end = None;
        for line in step.commands.lines().map(str::trim) {
            // What a command reads is none.
            if end.is_none() {
                lines.push(line);
                end =
                    line.split_once("<<'").and_then(|(_, rest)| rest.split_once('\'')).map(|(word, _)| word);
            } else if end == Some(line) {
                end = None;
            }
        }
    }
    let programs: BTreeSet<_> = lines.iter().filter_map(|line| line.split_whitespace().next()).collect();
    // Every second piece is between a pair of backquotes.
    let quoted = prose.split('`').skip(1).step_by(2).map(str::trim);
    let is_command = |text: &&str| {
        let mut words = text.split_whitespace();
        words.next().is_some_and(|first| programs.contains(first)) && words.next().is_some()
    };
    let is_run = |text: &str| lines.iter().any(|line| line.contains(text));
    quoted.filter(is_command).find(|text| !is_run(text)).map(ToOwned::to_owned)
}

#[test]
fn a_block_is_a_step_with_a_host_and_a_name() {
    let found =
        steps("# A\n\n```sh server look\nls -l\nid\n```\n\nNow `ls -l`, `ls` and:\n\n```toml\na = 1\n```\n")
            .unwrap();
    let expected = Step { host: Host::Server, name: "look".into(), commands: "ls -l\nid".into() };
    assert_eq!(found, [expected]);
}

#[test]
fn a_command_that_nothing_would_run_is_an_error() {
    const LOOK: &str = "```sh server look\nls -l\n```\n";
    for (added, complaint) in [
        ("```sh\nid\n```\n", "```sh HOST STEP"),
        ("```\nid\n```\n", "```sh HOST STEP"),
        ("```sh router id\nid\n```\n", "no such host"),
        (LOOK, "two steps of this name"),
        ("Or `ls -a`.\n", "`ls -a` is in no block"),
    ] {
        let error = steps(&format!("{LOOK}\n{added}")).unwrap_err();
        assert!(error.contains(complaint), "{error}");
    }
}
