//! The thread that changes the access lists: a million entries take seconds, and the loop has a clock to publish.
//!
//! It does one job at a time, in the order they come, and tells the loop of each when it is done. The loop alone
//! writes the policy, which says which lists there are, and alone answers who asked.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use responder::{Access, Family};
use serde_json::Value;
use tokio::sync::mpsc as to_loop;
use tracing::{error, info};

use super::listener::Caller;
use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::net::prefix::Prefix;
use crate::serving::limits::{Changes, Effective, Entry, InForce, Lists, Maps};
use crate::sys::capabilities::{self, Capability};

/// Entries that a command shows; the answer has to fit into a line.
const SHOWN: usize = 5000;
/// After this long an entry that could not be ended is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What reads a configuration.
pub(super) type Read = Box<dyn FnOnce() -> Result<Config> + Send>;

/// What there is to do.
pub(super) enum Job {
    /// Takes the entries of a configuration. Reading it, and the files it names, is part of the job.
    Configure(Read),
    /// Makes a live entry, or takes it away, and says this of it.
    Set { prefix: Prefix, entry: Option<Entry>, message: String, caller: Caller },
    /// Shows the entries.
    Show(Caller),
}

/// A job that is done, or an entry that has ended: what the loop has to do now.
pub(super) struct Done {
    /// The lists that are not empty now.
    pub(super) lists: u8,
    /// Entries in all.
    pub(super) entries: usize,
    /// The families of which all clients are denied.
    pub(super) unanswered: Vec<Family>,
    pub(super) next: Next,
}

/// What comes after a change.
pub(super) enum Next {
    Nothing,
    /// Somebody waits for this answer.
    Answer(Caller, Result<Value>),
    /// The lists of a configuration are in force: now the rest of it, or the lists are put back.
    Configure(Result<(Box<Config>, Settle)>),
}

/// Says whether a configuration stays in force. Dropped, it does not.
pub(super) struct Settle(mpsc::Sender<()>);

impl Settle {
    pub(super) fn keep(self) {
        // Without the thread nothing can be put back either.
        let _nobody = self.0.send(());
    }
}

/// Starts the thread.
pub(super) fn start(
    maps: impl Maps + Send + 'static,
    entries: Arc<RwLock<Effective>>,
) -> Result<(mpsc::Sender<Job>, to_loop::UnboundedReceiver<Done>)> {
    let (jobs, to_do) = mpsc::channel();
    let (done, finished) = to_loop::unbounded_channel();
    // Nobody joins it: it ends with the process, and should it panic, the process ends with it (see Cargo.toml).
    std::thread::Builder::new()
        .name("access-lists".into())
        .spawn(move || {
            // To write maps, and to read files that root may read although they are somebody else's.
            capabilities::keep(&[Capability::CAP_BPF, Capability::CAP_DAC_READ_SEARCH]);
            match InForce::inheriting(maps, entries) {
                Ok(in_force) => Worker { lists: Lists::default(), in_force, done }.work(&to_do),
                Err(error) => {
                    let next = Next::Configure(Err(error));
                    let _ended = done.send(Done { lists: 0, entries: 0, unanswered: Vec::new(), next });
                }
            }
        })
        .map_err(Error::because(Code::Os, "cannot start the thread of the access lists"))?;
    Ok((jobs, finished))
}

struct Worker<M> {
    /// As they should be.
    lists: Lists,
    in_force: InForce<M>,
    done: to_loop::UnboundedSender<Done>,
}

impl<M: Maps> Worker<M> {
    fn work(mut self, jobs: &mpsc::Receiver<Job>) {
        loop {
            let job = match self.lists.next_end() {
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some((until, _)) => jobs.recv_timeout(until.saturating_duration_since(Instant::now())),
            };
            match job {
                Ok(Job::Configure(read)) => self.configure(read),
                // A command whose caller has given up is not carried out.
                Ok(Job::Set { caller, .. }) if !caller.is_waiting() => {}
                Ok(Job::Set { prefix, entry, message, caller }) => {
                    let answer = self.set(prefix, entry).map(|()| {
                        info!("{message}");
                        vec![message].into()
                    });
                    self.tell(Next::Answer(caller, answer));
                }
                Ok(Job::Show(caller)) => {
                    let shown = serde_json::to_value(self.lists.show(Instant::now(), SHOWN));
                    self.tell(Next::Answer(caller, shown.map_err(Error::because(Code::Software, "answer"))));
                }
                Err(RecvTimeoutError::Timeout) => self.expire(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Puts the lists of a configuration in force, waits for the loop to do the rest, and puts the old lists back if
    /// that failed.
    fn configure(&mut self, read: Read) {
        let (config, before, changes) = match self.try_configure(read) {
            Err(error) => return self.tell(Next::Configure(Err(error))),
            Ok(configured) => configured,
        };
        let (keep, kept) = mpsc::channel();
        self.tell(Next::Configure(Ok((Box::new(config), Settle(keep)))));
        if kept.recv().is_err() {
            self.in_force.undo(&changes);
            self.lists.configure(before);
            self.tell(Next::Nothing);
        }
    }

    fn try_configure(&mut self, read: Read) -> Result<(Config, BTreeMap<Prefix, Access>, Changes)> {
        // Looked at before anything is changed: a list's file may have vanished.
        let config = read()?;
        let entries = config.entries()?;
        let before = self.lists.configure(entries);
        match self.in_force.put(&self.lists) {
            Ok(changes) => Ok((config, before, changes)),
            Err(error) => {
                self.lists.configure(before);
                Err(error)
            }
        }
    }

    fn set(&mut self, prefix: Prefix, entry: Option<Entry>) -> Result<()> {
        if entry.is_none() {
            self.lists.require_live(prefix)?;
        }
        let before = self.lists.set(prefix, entry);
        self.in_force.put_one(prefix, &self.lists).inspect_err(|_| {
            self.lists.set(prefix, before);
        })
    }

    /// Takes off what has ended.
    fn expire(&mut self) {
        let now = Instant::now();
        while let Some((until, prefix)) = self.lists.next_end()
            && until <= now
        {
            let ended = self.lists.set(prefix, None);
            if let Err(error) = self.in_force.put_one(prefix, &self.lists) {
                error!("cannot take an ended entry off the access lists: {error}");
                self.lists.set(prefix, ended.map(|entry| Entry { until: Some(now + AGAIN), ..entry }));
            }
        }
        self.tell(Next::Nothing);
    }

    fn tell(&self, next: Next) {
        let done = Done {
            lists: self.in_force.flags(),
            entries: self.in_force.number(),
            unanswered: self.in_force.unanswered(),
            next,
        };
        // A daemon that ends does not listen any more.
        let _ended = self.done.send(done);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use responder::access::BLOCK_WORDS;

    use super::*;
    use crate::daemon::listener::caller;
    use crate::serving::limits::Blocks;

    /// Fake maps of the program, which a test can read.
    #[derive(Clone, Default)]
    struct Fake(Arc<Mutex<BTreeMap<Prefix, Access>>>);

    impl Fake {
        fn denied(&self) -> Vec<String> {
            let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            entries.keys().map(ToString::to_string).collect()
        }
    }

    impl Maps for Fake {
        fn entries(&self) -> Result<Vec<(Prefix, Access)>> {
            Ok(self.0.lock().unwrap().iter().map(|(prefix, access)| (*prefix, *access)).collect())
        }

        fn blocks(&self) -> Result<Blocks> {
            Ok(Blocks::of(self.0.lock().unwrap().keys()))
        }

        fn set(&mut self, prefix: Prefix, access: Option<Access>) -> Result<()> {
            let mut entries = self.0.lock().unwrap();
            match access {
                Some(access) => entries.insert(prefix, access),
                None => entries.remove(&prefix),
            };
            Ok(())
        }

        fn set_block(&mut self, _entry: u32, _words: &[u64; BLOCK_WORDS]) -> Result<()> {
            Ok(())
        }
    }

    struct Thread {
        maps: Fake,
        entries: Arc<RwLock<Effective>>,
        jobs: mpsc::Sender<Job>,
        done: to_loop::UnboundedReceiver<Done>,
    }

    impl Thread {
        fn start() -> Self {
            let (maps, entries) = (Fake::default(), Arc::<RwLock<Effective>>::default());
            let (jobs, done) = start(maps.clone(), Arc::clone(&entries)).unwrap();
            Self { maps, entries, jobs, done }
        }

        /// Puts the lists of a configuration in force, before the rest of it.
        fn configure(&mut self, denied: &str) -> (Box<Config>, Settle, Done) {
            let config = Config::parse(&format!("[access]\ndeny = [\"{denied}\"]\n"));
            self.jobs.send(Job::Configure(Box::new(|| config))).unwrap();
            let mut done = self.done.blocking_recv().unwrap();
            match std::mem::replace(&mut done.next, Next::Nothing) {
                Next::Configure(Ok((config, settle))) => (config, settle, done),
                _ => panic!("it is not configured"),
            }
        }

        /// Returns how the sockets treat an address.
        fn access(&self, address: &str) -> Access {
            self.entries.read().unwrap().of(address.parse().unwrap())
        }
    }

    #[test]
    fn a_reload_whose_rest_fails_puts_the_lists_back_for_both_paths() {
        let mut thread = Thread::start();
        let (_, settle, _) = thread.configure("192.0.2.0/24");
        settle.keep();
        let (_, settle, done) = thread.configure("198.51.100.0/24");
        assert_eq!(thread.maps.denied(), ["198.51.100.0/24"], "in force while the rest is tried");
        assert_eq!((done.entries, thread.access("198.51.100.7")), (1, Access::Denied));
        assert_eq!(done.unanswered, []);

        // The rest of the configuration fails: the loop drops `settle` and does not keep the lists.
        drop(settle);
        let back = thread.done.blocking_recv().unwrap();
        assert!(matches!(back.next, Next::Nothing));
        assert_eq!(thread.maps.denied(), ["192.0.2.0/24"]);
        assert_eq!(thread.access("198.51.100.7"), Access::Ordinary);
        assert_eq!(thread.access("192.0.2.7"), Access::Denied);
    }

    #[test]
    fn the_loop_is_told_when_the_lists_deny_everybody() {
        let mut thread = Thread::start();
        let (_, settle, done) = thread.configure("0.0.0.0/0");
        settle.keep();
        assert_eq!(done.unanswered, [Family::Ipv4]);
        let (_, settle, done) = thread.configure("::/0");
        settle.keep();
        assert_eq!(done.unanswered, [Family::Ipv6]);
    }

    #[test]
    fn commands_wait_behind_a_reload_and_those_whose_callers_have_given_up_are_not_carried_out() {
        let mut thread = Thread::start();
        let (_, settle, _) = thread.configure("192.0.2.0/24");
        let set = |prefix: &str, caller| Job::Set {
            prefix: prefix.parse().unwrap(),
            entry: Some(Entry { access: Access::Denied, until: None }),
            message: "denied".into(),
            caller,
        };
        let (given_up, answer) = caller();
        thread.jobs.send(set("10.0.0.0/8", given_up)).unwrap();
        let (waiting, _answer) = caller();
        thread.jobs.send(set("10.1.0.0/16", waiting)).unwrap();
        drop(answer);
        settle.keep();
        let done = thread.done.blocking_recv().unwrap();
        assert!(matches!(done.next, Next::Answer(_, Ok(_))));
        assert_eq!(thread.maps.denied(), ["10.1.0.0/16", "192.0.2.0/24"]);
    }
}
