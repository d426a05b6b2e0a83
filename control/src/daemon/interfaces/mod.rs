//! The thread that attaches, detaches and follows the interfaces. All of that may take seconds, and the loop has a
//! clock to publish.
//!
//! The thread does one job at a time, in the order in which they arrive, and follows changes of the interfaces in
//! between. Only the loop writes the map of the published state, and only the loop answers commands, so the thread
//! sends it a [`Message`] for each. The thread may wait for the loop. The loop never waits for the thread.

#[cfg(test)]
mod fake;
mod interface_set;
mod kernel;

use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tracing::error;

pub(super) use interface_set::Names;

use super::listener::Caller;
use crate::error::{Code, Error, Result};
use crate::net::interfaces::{Addresses, Interface};
use crate::net::served::WithoutRoom;
use crate::serving::xdp::{Links, ModeRequest, Slot};
use crate::sys::capabilities::{self, Capability};
use interface_set::{InterfaceSet, Kernel};
use kernel::HostKernel;

/// Interval at which the interfaces are examined even without a change, because netlink drops messages under memory
/// pressure.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// Where one answer is sent.
pub(super) type Reply<T> = oneshot::Sender<Result<T>>;

/// A job for the thread.
pub(super) enum Job {
    /// Attaches to the first interfaces. If that fails, the thread ends.
    Begin { wanted: Vec<Interface>, mode: ModeRequest, replace: bool, done: Reply<()> },
    /// Attaches to more interfaces.
    Attach { names: Vec<String>, mode: ModeRequest, replace: bool, caller: Caller },
    /// Detaches from these interfaces, or from all if none is named.
    Detach { names: Vec<String>, caller: Caller },
    /// Follows the interfaces, because something has changed or may have changed.
    Follow,
    /// Ends the thread. It detaches from all interfaces first if `detach` says so.
    End { detach: bool, done: Reply<()> },
}

/// A message from the thread to the loop.
pub(super) enum Message {
    /// These are the addresses of all interfaces of the host, attached or not.
    Own(Addresses),
    /// Publish these addresses, and reply when they are in force.
    Serve(Addresses, Reply<()>),
    /// Take a slot in the counters for an interface.
    TakeSlot(Interface, Reply<Slot>),
    /// Free the slot of an interface, by index.
    FreeSlot(u32, Reply<()>),
    /// These interfaces are attached or missing now.
    Names(Names),
    /// Answer a command. `detached` says whether it was a `detach`.
    Answer { caller: Caller, answer: Result<Value>, detached: bool },
}

/// The loop's side: the channels to and from the thread, and what the thread last said about the interfaces.
pub(super) struct Interfaces {
    jobs: mpsc::UnboundedSender<Job>,
    messages: mpsc::UnboundedReceiver<Message>,
    pub(super) names: Names,
    /// The addresses that are served on the attached interfaces.
    pub(super) addresses: Addresses,
    /// The addresses of all interfaces of the host, attached or not.
    pub(super) own_addresses: Addresses,
    /// The addresses that are left to the sockets because there is no room for them in the NIC path.
    pub(super) without_room: Vec<WithoutRoom>,
    /// The reply that is due when the published addresses are in force.
    pub(super) serving: Option<Reply<()>>,
}

impl Interfaces {
    /// Starts the thread. `names` are the interfaces that an earlier daemon left attached, and those that do not exist
    /// yet. The thread follows no changes before its first job, [`Job::Begin`], is done.
    ///
    /// # Errors
    ///
    /// The kernel cannot create the thread.
    pub(super) fn start(
        links: Links,
        names: Names,
        mode: ModeRequest,
        own_addresses: Addresses,
    ) -> Result<Self> {
        let set = names.clone();
        let (jobs, messages) =
            spawn(move |messages| Ok(InterfaceSet::new(HostKernel::new(links, messages)?, set, mode)))?;
        Ok(Self {
            jobs,
            messages,
            names,
            addresses: Addresses::default(),
            own_addresses,
            without_room: Vec::new(),
            serving: None,
        })
    }

    /// Appends a job to the queue.
    pub(super) fn put(&self, job: Job) {
        // A thread that has ended drops the reply, and whoever waits for that notices.
        let _ended = self.jobs.send(job);
    }

    /// Returns the next message of the thread. Nothing is lost if the wait is given up.
    pub(super) async fn message(&mut self) -> Option<Message> {
        self.messages.recv().await
    }
}

/// A [`Kernel`] that also reports changes.
trait WatchedKernel: Kernel {
    /// Waits for the next job: one from the queue, or [`Job::Follow`] after a change. Returns nothing when the queue is
    /// closed.
    fn next(&mut self, jobs: &mut mpsc::UnboundedReceiver<Job>) -> Option<Job>;

    /// Returns the addresses of all interfaces of the host, attached or not.
    ///
    /// # Errors
    ///
    /// The kernel does not list them.
    fn own_addresses(&self) -> Result<Addresses>;
}

/// What the thread needs to load and attach programs and to change settings of interfaces. The last one is for programs
/// of others: to name and to replace them. The service does without.
const KEPT: [Capability; 4] =
    [Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_NET_ADMIN, Capability::CAP_SYS_ADMIN];

/// The loop's ends of the two channels.
type Channels = (mpsc::UnboundedSender<Job>, mpsc::UnboundedReceiver<Message>);

/// Starts the thread. `open` makes the set on it.
fn spawn<K: WatchedKernel>(
    open: impl FnOnce(mpsc::UnboundedSender<Message>) -> Result<InterfaceSet<K>> + Send + 'static,
) -> Result<Channels> {
    let (jobs, queue) = mpsc::unbounded_channel();
    let (messages, received) = mpsc::unbounded_channel();
    // The thread is never joined: it ends with the process, and a panic in it ends the process (see Cargo.toml).
    std::thread::Builder::new()
        .name("interfaces".into())
        .spawn(move || {
            capabilities::keep(&KEPT);
            match open(messages.clone()) {
                Ok(set) => Worker { set, jobs: queue, messages, sent: None }.work(),
                Err(error) => refuse(queue, &error),
            }
        })
        .map_err(Error::because(Code::Os, "cannot start the thread of the interfaces"))?;
    Ok((jobs, received))
}

/// Answers the first job with the error that kept the set from being made.
fn refuse(mut jobs: mpsc::UnboundedReceiver<Job>, error: &Error) {
    if let Some(Job::Begin { done, .. }) = jobs.blocking_recv() {
        let _ended = done.send(Err(error.clone()));
    }
}

struct Worker<K> {
    set: InterfaceSet<K>,
    jobs: mpsc::UnboundedReceiver<Job>,
    messages: mpsc::UnboundedSender<Message>,
    /// The names that were sent to the loop last.
    sent: Option<Names>,
}

impl<K: WatchedKernel> Worker<K> {
    fn work(mut self) {
        let mut next = self.jobs.blocking_recv();
        while let Some(job) = next {
            match job {
                Job::Begin { wanted, mode, replace, done } => {
                    let begun = self.set.attach(wanted, mode, replace);
                    let failed = begun.is_err();
                    self.send_names();
                    let _ended = done.send(begun.map(|_messages| ()));
                    if failed {
                        return;
                    }
                }
                // A command whose caller has given up is not carried out.
                Job::Attach { caller, .. } | Job::Detach { caller, .. } if !caller.is_waiting() => {}
                Job::Attach { names, mode, replace, caller } => {
                    let done = self.set.attach_named(&names, mode, replace);
                    self.answer(caller, done, false);
                }
                Job::Detach { names, caller } => {
                    let done = self.set.detach(&names);
                    self.answer(caller, done, true);
                }
                Job::Follow => self.follow(),
                Job::End { detach, done } => {
                    let detached = if detach { self.set.detach(&[]).map(|_messages| ()) } else { Ok(()) };
                    self.send_names();
                    let _ended = done.send(detached);
                    return;
                }
            }
            next = self.set.kernel_mut().next(&mut self.jobs);
        }
    }

    fn answer(&mut self, caller: Caller, done: Result<Vec<String>>, detached: bool) {
        self.send_names();
        self.send(Message::Answer { caller, answer: done.map(Value::from), detached });
    }

    fn follow(&mut self) {
        // This comes first: once an upstream's address is an address of this host, this server answers there.
        let followed = self.set.kernel().own_addresses().and_then(|own| {
            self.send(Message::Own(own));
            self.set.follow()
        });
        if let Err(error) = followed {
            error!("{error}");
        }
        self.send_names();
    }

    fn send_names(&mut self) {
        let names = self.set.names();
        if self.sent.as_ref() != Some(&names) {
            self.send(Message::Names(names.clone()));
            self.sent = Some(names);
        }
    }

    fn send(&self, message: Message) {
        // A loop that has ended receives nothing.
        let _ended = self.messages.send(message);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::Receiver;

    use super::fake::Fake;
    use super::*;
    use crate::daemon::listener::caller;
    use crate::daemon::protocol::Response;

    /// The loop's side of a thread on a fake kernel.
    struct Thread {
        jobs: mpsc::UnboundedSender<Job>,
        messages: mpsc::UnboundedReceiver<Message>,
    }

    impl Thread {
        fn start(kernel: &Fake) -> Self {
            let kernel = kernel.clone();
            let set = move |_words| Ok(InterfaceSet::new(kernel, Names::default(), ModeRequest::Auto));
            let (jobs, messages) = spawn(set).unwrap();
            Self { jobs, messages }
        }

        fn begin(&self, wanted: Vec<Interface>) -> Result<()> {
            let (done, begun) = oneshot::channel();
            let job = Job::Begin { wanted, mode: ModeRequest::Auto, replace: false, done };
            self.jobs.send(job).ok().unwrap();
            begun.blocking_recv().unwrap()
        }

        fn attach(&self, name: &str) -> Receiver<Response> {
            let (caller, answer) = caller();
            let names = vec![name.into()];
            let job = Job::Attach { names, mode: ModeRequest::Auto, replace: false, caller };
            self.jobs.send(job).ok().unwrap();
            answer
        }

        fn detach(&self, name: &str) -> Receiver<Response> {
            let (caller, answer) = caller();
            self.jobs.send(Job::Detach { names: vec![name.into()], caller }).ok().unwrap();
            answer
        }

        /// Returns the next message as text.
        fn message(&mut self) -> String {
            match self.messages.blocking_recv().unwrap() {
                Message::Names(names) => format!("{:?}", names.attached.values().collect::<Vec<_>>()),
                Message::Answer { answer, detached, .. } => {
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
        assert_eq!(thread.message(), "[\"lan0\"]");
        kernel.state().attaching = Duration::from_millis(200);
        let _answers = [thread.attach("lan1"), thread.detach("lan1"), thread.detach("lan1")];
        assert_eq!(thread.message(), "[\"lan0\", \"lan1\"]", "before the answer");
        assert_eq!(thread.message(), "[\"lan1: attached in native mode\"]: false");
        assert_eq!(thread.message(), "[\"lan0\"]");
        assert_eq!(thread.message(), "[\"lan1: detached\"]: true");
        assert_eq!(thread.message(), "\"not attached to `lan1`\": true");
    }

    #[test]
    fn a_command_whose_caller_has_given_up_is_not_carried_out() {
        let kernel = Fake::with(&["lan0", "lan1"]);
        let mut thread = Thread::start(&kernel);
        thread.begin(vec![kernel.interface(1)]).unwrap();
        thread.message();
        kernel.take_log();
        // While the thread is busy, no command begins.
        kernel.state().attaching = Duration::from_secs(1);
        let _answer = thread.attach("lan1");
        drop(thread.detach("lan0"));
        drop(thread.detach("lan1"));
        let _answer = thread.detach("lan7");
        assert_eq!(thread.message(), "[\"lan0\", \"lan1\"]");
        assert_eq!(thread.message(), "[\"lan1: attached in native mode\"]: false");
        assert_eq!(thread.message(), "\"not attached to `lan7`\": true");
        assert_eq!(kernel.take_log(), ["serve 1 2", "attach 2 lan1"]);
    }

    #[test]
    fn a_start_that_fails_ends_the_thread_and_an_end_detaches_if_it_is_told_to() {
        let kernel = Fake::with(&["lan0", "lan1"]);
        kernel.state().refusing.push(1);
        let thread = Thread::start(&kernel);
        assert_eq!(thread.begin(vec![kernel.interface(1)]).unwrap_err().what, "lan0 refused");
        let Thread { jobs, mut messages } = thread;
        // The thread says that nothing is attached, and then ends.
        while messages.blocking_recv().is_some() {}
        assert!(jobs.is_closed());

        for (detach, last) in [(false, "attach 2 lan1"), (true, "detach 2")] {
            let thread = Thread::start(&kernel);
            thread.begin(vec![kernel.interface(2)]).unwrap();
            let (done, ended) = oneshot::channel();
            thread.jobs.send(Job::End { detach, done }).ok().unwrap();
            ended.blocking_recv().unwrap().unwrap();
            assert_eq!(kernel.take_log().last().unwrap(), last);
        }
    }

    #[test]
    fn without_the_kernel_nothing_begins_and_the_reason_is_told() {
        let failed = |_words| Err(Error::new(Code::Os, "no netlink"));
        let (jobs, messages) = spawn::<Fake>(failed).unwrap();
        assert_eq!(Thread { jobs, messages }.begin(Vec::new()).unwrap_err().what, "no netlink");
    }
}
