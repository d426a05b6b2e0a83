//! The operator's way through a document: its commands step by step, on the server and on another host.

use std::fs;
use std::process::Command;

use testlab::foreign::xdp;
use testlab::{Lab, Output, tool};

use crate::document::{Host, Step, steps};
use crate::machine::Machine;
use crate::packages::Packages;

/// The operator, on the way.
pub(crate) struct Journey<'lab> {
    pub(crate) lab: &'lab Lab,
    pub(crate) machine: Machine<'lab>,
    steps: std::vec::IntoIter<Step>,
}

impl<'lab> Journey<'lab> {
    /// At the beginning of a document.
    pub(crate) fn of(document: &str, lab: &'lab Lab, machine: Machine<'lab>) -> Self {
        Self { lab, machine, steps: steps(document).unwrap().into_iter() }
    }

    /// At the end of it.
    pub(crate) fn ends(mut self) {
        assert_eq!(self.steps.next(), None, "the document has more steps than are taken here");
    }

    /// Takes the document's next step, which must be this one and succeed, and returns what its commands say.
    pub(crate) fn take(&mut self, name: &str) -> String {
        let output = self.run(name);
        let said = format!("{}{}", output.stdout, output.stderr);
        output.expect_success();
        said
    }

    /// Takes the document's next step, which must be this one.
    pub(crate) fn run(&mut self, name: &str) -> Output {
        let step = self.next(name);
        let commands = format!("cd; {}", step.commands);
        let output = match step.host {
            Host::Server => self.machine.shell(&commands),
            Host::Another => self.elsewhere(&step.commands),
            Host::Build => panic!("{name} is not for a host"),
        };
        println!("--- {name}\n{}{}", output.stdout, output.stderr);
        output
    }

    pub(crate) fn next(&mut self, name: &str) -> Step {
        let step = self.steps.next().unwrap_or_else(|| panic!("the document has no step {name}"));
        assert_eq!(step.name, name, "the document's next step");
        step
    }

    /// On another host, in a directory to which the tarball was copied.
    pub(crate) fn elsewhere(&self, commands: &str) -> Output {
        let directory = self.lab.directory("elsewhere");
        let tarball = &Packages::get().tarball;
        fs::copy(tarball, directory.join(tarball.file_name().unwrap())).unwrap();
        let tools =
            tool("ntpdate").and_then(|path| Some(path.parent()?.display().to_string())).unwrap_or_default();
        let path = format!("{tools}:{}", std::env::var("PATH").unwrap());
        let mut command: Command = self.lab.command("client", "timeout");
        command.args(["60", "sh", "-eu", "-c", commands]).current_dir(directory).env("PATH", path);
        Output::of(&mut command)
    }

    pub(crate) fn main_process(&self) -> String {
        self.machine.says("systemctl show --value --property MainPID pooltime-xdp").trim().into()
    }

    /// The program on the server's interface.
    pub(crate) fn program(&self) -> Option<u64> {
        xdp(self.lab, "lan0")
    }

    pub(crate) fn is_attached(&self) -> bool {
        self.program().is_some()
    }
}
