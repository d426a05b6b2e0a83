//! The thread that attaches, detaches and follows the interfaces: all of that may take seconds, and the loop has a
//! clock to publish.
//!
//! It does one job at a time, in the order they come, and follows what changes between them. The loop alone writes to
//! the map of the published state and alone answers who asked, so the thread asks it for the one and tells it of the
//! other. The thread waits for the loop, and the loop never for the thread.

#[cfg(test)]
mod fake;
mod interface_set;
mod kernel;

use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tracing::error;

pub(super) use interface_set::Names;

use super::listener::Asker;
use crate::error::{Code, Error, Result};
use crate::net::interfaces::{Addresses, Interface};
use crate::serving::xdp::{Links, ModeRequest, Slot};
use interface_set::{InterfaceSet, Kernel};
use kernel::Host;

/// Netlink drops messages under memory pressure: the interfaces are looked at this often anyway.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// The way back for one answer.
pub(super) type Reply<T> = oneshot::Sender<Result<T>>;

/// What there is to do.
pub(super) enum Job {
    /// Attach to these to begin with. If that fails, the thread ends.
    Begin {
        wanted: Vec<Interface>,
        mode: ModeRequest,
        replace: bool,
        done: Reply<()>,
    },
    Attach {
        names: Vec<String>,
        mode: ModeRequest,
        replace: bool,
        asker: Asker,
    },
    Detach {
        names: Vec<String>,
        asker: Asker,
    },
    /// Something has changed, or may have.
    Follow,
    /// End, and detach before if that is wanted.
    End {
        detach: bool,
        done: Reply<()>,
    },
}

/// What the loop has to do.
pub(super) enum Word {
    /// Take note of the addresses of all interfaces, whether they are attached or not.
    Own(Addresses),
    /// Have these addresses answered for, and say when they are.
    Serve(Addresses, Reply<()>),
    /// Give an interface a place in the counters.
    TakeSlot(Interface, Reply<Slot>),
    /// Free the place of an interface.
    FreeSlot(u32, Reply<()>),
    /// Take note of what is attached now.
    Names(Names),
    /// Answer who asked.
    Answer { asker: Asker, answer: Result<Value>, detached: bool },
}

/// The loop's end: the way to the thread and back, and what is known of the interfaces.
pub(super) struct Interfaces {
    jobs: mpsc::UnboundedSender<Job>,
    words: mpsc::UnboundedReceiver<Word>,
    pub(super) names: Names,
    /// That are served.
    pub(super) addresses: Addresses,
    /// Of all interfaces, whether they are attached or not.
    pub(super) own_addresses: Addresses,
    /// Who waits until the published addresses are in force.
    pub(super) unserved: Option<Reply<()>>,
}

impl Interfaces {
    /// Starts the thread, with what an earlier daemon left attached and what is not there yet. It follows nothing before
    /// its first job, [`Job::Begin`], is done.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub(super) fn start(
        links: Links,
        names: Names,
        mode: ModeRequest,
        own_addresses: Addresses,
    ) -> Result<Self> {
        let set = names.clone();
        let (jobs, words) = spawn(move |words| Ok(InterfaceSet::new(Host::new(links, words)?, set, mode)))?;
        Ok(Self { jobs, words, names, addresses: Addresses::default(), own_addresses, unserved: None })
    }

    /// Has something done, after what is to be done already.
    pub(super) fn put(&self, job: Job) {
        // Whoever waits for it sees that the thread has ended.
        let _ended = self.jobs.send(job);
    }

    /// What the thread says next.
    pub(super) async fn word(&mut self) -> Option<Word> {
        self.words.recv().await
    }
}

/// What the thread waits for between two jobs, and what it alone looks at.
trait Watch: Kernel {
    /// The next job: one that was put, or [`Job::Follow`] because something changed; nothing at the end.
    fn next(&mut self, jobs: &mut mpsc::UnboundedReceiver<Job>) -> Option<Job>;

    /// The addresses of all interfaces.
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn own_addresses(&self) -> Result<Addresses>;
}

type Ends = (mpsc::UnboundedSender<Job>, mpsc::UnboundedReceiver<Word>);

/// Starts a thread for the set that `open` makes on it.
fn spawn<K: Watch>(
    open: impl FnOnce(mpsc::UnboundedSender<Word>) -> Result<InterfaceSet<K>> + Send + 'static,
) -> Result<Ends> {
    let (jobs, to_do) = mpsc::unbounded_channel();
    let (words, heard) = mpsc::unbounded_channel();
    // Nobody joins it: it ends with the process, and should it panic, the process ends with it (see Cargo.toml).
    std::thread::Builder::new()
        .name("interfaces".into())
        .spawn(move || match open(words.clone()) {
            Ok(set) => Worker { set, jobs: to_do, words, told: None }.work(),
            Err(error) => refuse(to_do, &error),
        })
        .map_err(Error::because(Code::Os, "cannot start the thread of the interfaces"))?;
    Ok((jobs, heard))
}

/// Without a set nothing can begin.
fn refuse(mut jobs: mpsc::UnboundedReceiver<Job>, error: &Error) {
    if let Some(Job::Begin { done, .. }) = jobs.blocking_recv() {
        let _ended = done.send(Err(error.clone()));
    }
}

struct Worker<K> {
    set: InterfaceSet<K>,
    jobs: mpsc::UnboundedReceiver<Job>,
    words: mpsc::UnboundedSender<Word>,
    /// What the loop knows already.
    told: Option<Names>,
}

impl<K: Watch> Worker<K> {
    fn work(mut self) {
        let mut next = self.jobs.blocking_recv();
        while let Some(job) = next {
            match job {
                Job::Begin { wanted, mode, replace, done } => {
                    let begun = self.set.attach(wanted, mode, replace);
                    let failed = begun.is_err();
                    self.tell_names();
                    let _ended = done.send(begun.map(|_messages| ()));
                    if failed {
                        return;
                    }
                }
                Job::Attach { names, mode, replace, asker } => {
                    if asker.is_there() {
                        let done = self.set.attach_named(&names, mode, replace);
                        self.answer(asker, done, false);
                    }
                }
                Job::Detach { names, asker } => {
                    if asker.is_there() {
                        let done = self.set.detach(&names);
                        self.answer(asker, done, true);
                    }
                }
                Job::Follow => self.follow(),
                Job::End { detach, done } => {
                    let detached = if detach { self.set.detach(&[]).map(|_messages| ()) } else { Ok(()) };
                    self.tell_names();
                    let _ended = done.send(detached);
                    return;
                }
            }
            next = self.set.kernel_mut().next(&mut self.jobs);
        }
    }

    fn answer(&mut self, asker: Asker, done: Result<Vec<String>>, detached: bool) {
        self.tell_names();
        self.tell(Word::Answer { asker, answer: done.map(Value::from), detached });
    }

    fn follow(&mut self) {
        // First of all: from the moment on at which an upstream's address is ours, it is this server that answers.
        let followed = self.set.kernel().own_addresses().and_then(|own| {
            self.tell(Word::Own(own));
            self.set.follow()
        });
        if let Err(error) = followed {
            error!("{error}");
        }
        self.tell_names();
    }

    fn tell_names(&mut self) {
        let names = self.set.names();
        if self.told.as_ref() != Some(&names) {
            self.tell(Word::Names(names.clone()));
            self.told = Some(names);
        }
    }

    fn tell(&self, word: Word) {
        // A daemon that ends does not listen any more.
        let _ended = self.words.send(word);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::Receiver;

    use super::fake::Fake;
    use super::*;
    use crate::daemon::listener::asker;
    use crate::daemon::protocol::Response;

    /// The loop's end of a thread on a made-up kernel.
    struct Thread {
        jobs: mpsc::UnboundedSender<Job>,
        words: mpsc::UnboundedReceiver<Word>,
    }

    impl Thread {
        fn start(kernel: &Fake) -> Self {
            let kernel = kernel.clone();
            let set = move |_words| Ok(InterfaceSet::new(kernel, Names::default(), ModeRequest::Auto));
            let (jobs, words) = spawn(set).unwrap();
            Self { jobs, words }
        }

        fn begin(&self, wanted: Vec<Interface>) -> Result<()> {
            let (done, begun) = oneshot::channel();
            let job = Job::Begin { wanted, mode: ModeRequest::Auto, replace: false, done };
            self.jobs.send(job).ok().unwrap();
            begun.blocking_recv().unwrap()
        }

        fn attach(&self, name: &str) -> Receiver<Response> {
            let (asker, answer) = asker();
            let names = vec![name.into()];
            let job = Job::Attach { names, mode: ModeRequest::Auto, replace: false, asker };
            self.jobs.send(job).ok().unwrap();
            answer
        }

        fn detach(&self, name: &str) -> Receiver<Response> {
            let (asker, answer) = asker();
            self.jobs.send(Job::Detach { names: vec![name.into()], asker }).ok().unwrap();
            answer
        }

        /// The next word, as a line.
        fn word(&mut self) -> String {
            match self.words.blocking_recv().unwrap() {
                Word::Names(names) => format!("{:?}", names.attached.values().collect::<Vec<_>>()),
                Word::Answer { answer, detached, .. } => {
                    format!("{}: {detached}", answer.unwrap_or_else(|error| error.what.into()))
                }
                _ => "something else".into(),
            }
        }
    }

    #[test]
    fn a_detach_that_comes_while_an_attach_runs_is_done_after_it() {
        let kernel = Fake::with(&["lan0", "lan1"]);
        let mut thread = Thread::start(&kernel);
        thread.begin(vec![kernel.interface(1)]).unwrap();
        assert_eq!(thread.word(), "[\"lan0\"]");
        kernel.state().attaching = Duration::from_millis(200);
        let _answers = [thread.attach("lan1"), thread.detach("lan1"), thread.detach("lan1")];
        assert_eq!(thread.word(), "[\"lan0\", \"lan1\"]", "before the answer");
        assert_eq!(thread.word(), "[\"lan1: attached in native mode\"]: false");
        assert_eq!(thread.word(), "[\"lan0\"]");
        assert_eq!(thread.word(), "[\"lan1: detached\"]: true");
        assert_eq!(thread.word(), "\"not attached to `lan1`\": true");
    }

    #[test]
    fn a_command_that_nobody_waits_for_any_more_is_not_begun() {
        let kernel = Fake::with(&["lan0", "lan1"]);
        let mut thread = Thread::start(&kernel);
        thread.begin(vec![kernel.interface(1)]).unwrap();
        thread.word();
        kernel.diary();
        drop(thread.attach("lan1"));
        drop(thread.detach("lan0"));
        let _answer = thread.detach("lan7");
        assert_eq!(thread.word(), "\"not attached to `lan7`\": true");
        assert_eq!(kernel.diary(), Vec::<String>::new());
    }

    #[test]
    fn a_start_that_fails_ends_the_thread_and_an_end_detaches_if_it_is_told_to() {
        let kernel = Fake::with(&["lan0", "lan1"]);
        kernel.state().refusing.push(1);
        let thread = Thread::start(&kernel);
        assert_eq!(thread.begin(vec![kernel.interface(1)]).unwrap_err().what, "lan0 refused");
        let Thread { jobs, mut words } = thread;
        // It tells that nothing is attached, and no more.
        while words.blocking_recv().is_some() {}
        assert!(jobs.is_closed());

        for (detach, last) in [(false, "attach 2 lan1"), (true, "detach 2")] {
            let thread = Thread::start(&kernel);
            thread.begin(vec![kernel.interface(2)]).unwrap();
            let (done, ended) = oneshot::channel();
            thread.jobs.send(Job::End { detach, done }).ok().unwrap();
            ended.blocking_recv().unwrap().unwrap();
            assert_eq!(kernel.diary().last().unwrap(), last);
        }
    }

    #[test]
    fn without_the_kernel_nothing_begins_and_the_reason_is_told() {
        let failed = |_words| Err(Error::new(Code::Os, "no netlink"));
        let (jobs, words) = spawn::<Fake>(failed).unwrap();
        assert_eq!(Thread { jobs, words }.begin(Vec::new()).unwrap_err().what, "no netlink");
    }
}
