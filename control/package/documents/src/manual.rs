//! Man pages: a page for a program and one for each of its commands.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

/// What the manual of a program says beside its command line.
#[derive(Debug)]
pub(crate) struct Manual {
    /// The section of the manual: 1 for everybody's commands, 8 for the administrator's.
    pub(crate) section: &'static str,
    /// What the section is called at the top of a page.
    pub(crate) title: &'static str,
    /// Files that the program reads and writes, and what they are.
    pub(crate) files: &'static [(&'static str, &'static str)],
    /// Exit statuses and their meaning.
    pub(crate) exit_status: &'static [(&'static str, &'static str)],
    /// Environment variables and what they do.
    pub(crate) environment: &'static [(&'static str, &'static str)],
    /// Pages of other programs: name and section.
    pub(crate) see_also: &'static [(&'static str, &'static str)],
    /// What single commands add.
    pub(crate) commands: &'static [CommandManual],
}

/// What the page of one command adds.
#[derive(Debug)]
pub(crate) struct CommandManual {
    /// The command's words after the program's name; none for the program's own page.
    pub(crate) words: &'static [&'static str],
    /// What somebody wants, and what to type for it.
    pub(crate) examples: &'static [(&'static str, &'static str)],
    /// Exit statuses of this command only. The others have those of the program.
    pub(crate) exit_status: &'static [(&'static str, &'static str)],
}

impl Manual {
    /// Writes all pages, of this date, into a directory.
    pub(crate) fn write(&self, definition: &Command, date: &str, directory: &Path) -> io::Result<()> {
        let mut definition = definition.clone();
        definition.build();
        self.write_all(&definition, &mut Vec::new(), date, directory)
    }

    fn write_all(
        &self,
        command: &Command,
        words: &mut Vec<String>,
        date: &str,
        directory: &Path,
    ) -> io::Result<()> {
        for one in command.get_subcommands().filter(|one| !one.is_hide_set()) {
            words.push(one.get_name().to_owned());
            self.write_all(one, words, date, directory)?;
            words.pop();
        }
        let page = self.man(command, date);
        let mut file = BufWriter::new(File::create(directory.join(page.get_filename()))?);
        self.render(&page, command, words, &mut file)?;
        file.flush()
    }

    fn man(&self, command: &Command, date: &str) -> Man {
        Man::new(command.clone()).section(self.section).manual(self.title).date(date).source("pooltime-xdp")
    }

    /// Renders a page, its sections in the order of man-pages(7).
    pub(crate) fn render(
        &self,
        page: &Man,
        command: &Command,
        words: &[String],
        to: &mut impl Write,
    ) -> io::Result<()> {
        page.render_title(to)?;
        page.render_name_section(to)?;
        page.render_synopsis_section(to)?;
        page.render_description_section(to)?;
        if command.get_arguments().any(|argument| !argument.is_hide_set()) {
            page.render_options_section(to)?;
        }
        if command.has_subcommands() {
            page.render_subcommands_section(to)?;
        }
        let added = self.commands.iter().find(|one| one.words == words);
        let exit_status = added.map_or(&[][..], |one| one.exit_status);
        let exit_status = if exit_status.is_empty() { self.exit_status } else { exit_status };
        write_list("EXIT STATUS", exit_status, to)?;
        write_list("ENVIRONMENT", self.environment, to)?;
        write_list("FILES", self.files, to)?;
        write_examples(added.map_or(&[][..], |one| one.examples), to)?;
        self.write_see_also(command, words, to)
    }

    /// Refers to the page of the program, and to those of others.
    fn write_see_also(&self, command: &Command, words: &[String], to: &mut impl Write) -> io::Result<()> {
        let program = command.get_bin_name().and_then(|name| name.split_whitespace().next());
        let own = program.filter(|_| !words.is_empty()).map(|program| (program, self.section));
        let pages: Vec<_> = own.into_iter().chain(self.see_also.iter().copied()).collect();
        let mut roff = Roff::new();
        roff.control("SH", ["SEE ALSO"]);
        for (index, (name, section)) in pages.iter().enumerate() {
            let comma = if index + 1 < pages.len() { "," } else { "" };
            roff.text([bold(*name), roman(format!("({section}){comma}"))]);
        }
        roff.to_writer(to)
    }
}

fn write_list(heading: &str, items: &[(&str, &str)], to: &mut impl Write) -> io::Result<()> {
    if items.is_empty() {
        return Ok(());
    }
    let mut roff = Roff::new();
    roff.control("SH", [heading]);
    for (term, meaning) in items {
        roff.control("TP", []);
        roff.text([bold(*term)]);
        roff.text([roman(*meaning)]);
    }
    roff.to_writer(to)
}

fn write_examples(examples: &[(&str, &str)], to: &mut impl Write) -> io::Result<()> {
    if examples.is_empty() {
        return Ok(());
    }
    let mut roff = Roff::new();
    roff.control("SH", ["EXAMPLES"]);
    for (wish, command) in examples {
        roff.control("PP", []);
        roff.text([roman(*wish)]);
        // As it is to be typed, not filled.
        for (request, arguments) in [("PP", &[][..]), ("RS", &["4"][..]), ("nf", &[][..])] {
            roff.control(request, arguments.iter().copied());
        }
        for line in command.lines() {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
        roff.control("RE", []);
    }
    roff.to_writer(to)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{programs, without_help};

    /// Columns of a page on a terminal of 80 that are left for what is not filled: man(1) indents a section by 7, and
    /// [`write_examples`] by 4 more.
    const WIDTH: usize = 80 - 7 - 4;

    /// The words of every command of a program, and its definition.
    fn commands(definition: &Command) -> Vec<(Vec<String>, Command)> {
        let mut found = vec![(Vec::new(), definition.clone())];
        let mut next = 0;
        while let Some((words, command)) = found.get(next).cloned() {
            next += 1;
            for one in command.get_subcommands() {
                found.push(([&words[..], &[one.get_name().to_owned()]].concat(), one.clone()));
            }
        }
        found
    }

    /// The commands in a line of an example that call one of our programs: their arguments.
    fn calls(line: &str) -> Vec<Vec<&str>> {
        let parts = line.split(" | ").flat_map(|part| part.split(" && "));
        let is_word = |word: &&str| !word.starts_with('>');
        let words = parts.map(|part| {
            part.split_whitespace().skip_while(|word| *word == "sudo").take_while(is_word).collect()
        });
        words
            .filter(|words: &Vec<&str>| words.first().is_some_and(|one| one.starts_with("pooltime-")))
            .collect()
    }

    #[test]
    fn every_example_is_a_command_that_the_command_line_takes_and_fits_a_terminal() {
        let mut checked = 0;
        let definitions = programs().map(|(definition, _)| definition);
        for (_, manual) in programs() {
            for (wish, example) in manual.commands.iter().flat_map(|one| one.examples) {
                assert!(wish.ends_with(':') && !wish.contains('\n'), "{wish:?}");
                for line in example.lines() {
                    assert!(line.len() <= WIDTH, "{} columns: {line}", line.len());
                }
                for line in example.replace("\\\n", "").lines() {
                    for call in calls(line) {
                        let program = definitions.iter().find(|one| one.get_name() == call[0]).unwrap();
                        program
                            .clone()
                            .try_get_matches_from(&call)
                            .unwrap_or_else(|error| panic!("{line}: {error}"));
                        checked += 1;
                    }
                }
            }
        }
        assert!(checked > 20, "{checked}");
    }

    #[test]
    fn what_is_said_of_a_command_is_said_of_one_that_there_is() {
        for (definition, manual) in programs() {
            let known: BTreeSet<_> =
                commands(&without_help(definition)).into_iter().map(|(words, _)| words).collect();
            for one in manual.commands {
                let words: Vec<_> = one.words.iter().map(|word| (*word).to_owned()).collect();
                assert!(known.contains(&words), "{words:?}");
            }
        }
    }

    #[test]
    fn every_page_has_the_sections_that_a_reader_looks_for() {
        for (definition, manual) in programs() {
            let mut definition = without_help(definition);
            definition.build();
            for (words, command) in commands(&definition) {
                let mut page = Vec::new();
                manual.render(&manual.man(&command, "2026-11-30"), &command, &words, &mut page).unwrap();
                let page = String::from_utf8(page).unwrap();
                let title = page.lines().find(|line| line.starts_with(".TH")).unwrap();
                assert!(title.contains(&format!(" {} ", manual.section)), "{title}");
                for heading in [
                    "NAME",
                    "SYNOPSIS",
                    "DESCRIPTION",
                    "\"EXIT STATUS\"",
                    "ENVIRONMENT",
                    "FILES",
                    "\"SEE ALSO\"",
                ] {
                    assert!(page.contains(&format!(".SH {heading}\n")), "{words:?} has no {heading}: {page}");
                }
                let has_examples = page.contains(".SH EXAMPLES\n");
                assert!(has_examples || command.has_subcommands(), "{words:?} has no example");
            }
        }
    }
}
