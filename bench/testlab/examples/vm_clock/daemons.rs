//! The daemons in the guest: their configurations, and how they are started and ended.

use std::fmt::{self, Display, Formatter};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Result;
use crate::guest::Guest;

/// Where the upstreams are: addresses of the host's end of the link.
pub(crate) const UPSTREAMS: [&str; 4] = ["10.77.0.11", "10.77.0.12", "10.77.0.13", "10.77.0.14"];
/// Where the guest is.
pub(crate) const GUEST: &str = "10.77.0.1";

/// For a daemon to be up or gone: an emulated machine on a busy host verifies the program for a minute.
const PATIENCE: Duration = Duration::from_mins(3);
const LOOK: Duration = Duration::from_millis(200);

/// A daemon of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Daemon {
    /// Ours, with upstreams of its own; it steers the kernel's clock.
    Steering,
    /// Ours, with upstreams of its own; it leaves the kernel's clock alone.
    Watching,
    /// Ours, which serves the clock that another daemon keeps.
    System,
    /// Debian's chronyd, which serves clients, too.
    Chronyd,
    /// Debian's chronyd as it is installed: a client only.
    ChronydClient,
    /// ntpd of the package ntpsec.
    Ntpd,
    /// systemd's.
    Timesyncd,
}

impl Daemon {
    /// Whether it is the one under test.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Steering | Self::Watching | Self::System)
    }

    /// Whether it tells others whom it follows.
    pub(crate) fn tells_its_source(self) -> bool {
        self != Self::Timesyncd
    }

    /// What its files are named after.
    fn name(self) -> &'static str {
        match self {
            Self::Steering | Self::Watching | Self::System => "ours",
            Self::Chronyd | Self::ChronydClient => "chronyd",
            Self::Ntpd => "ntpd",
            Self::Timesyncd => "timesyncd",
        }
    }

    fn configuration_file(self) -> &'static str {
        match self {
            Self::Steering | Self::Watching | Self::System => "/etc/ours.toml",
            Self::Chronyd | Self::ChronydClient => "/etc/chrony.conf",
            Self::Ntpd => "/etc/ntp.conf",
            Self::Timesyncd => "/etc/systemd/timesyncd.conf",
        }
    }

    fn command(self) -> &'static str {
        match self {
            Self::Steering | Self::Watching | Self::System => "pooltime-xdp run --config /etc/ours.toml",
            Self::Chronyd | Self::ChronydClient => "chronyd -n -u root -f /etc/chrony.conf",
            Self::Ntpd => "ntpd -n -g -c /etc/ntp.conf",
            Self::Timesyncd => "/lib/systemd/systemd-timesyncd",
        }
    }

    /// With everything at its default, but for the poll interval (log2 seconds) where one is given.
    fn configuration(self, poll: Option<u8>) -> String {
        let polls = |text: &str| poll.map_or(String::new(), |poll| text.replace('N', &poll.to_string()));
        let servers = |line: &str| UPSTREAMS.map(|address| line.replace('A', address)).concat();
        let ours = "interfaces = [\"eth0\"]\n[limits]\nenabled = false\n[clock]\n";
        match self {
            Self::Steering | Self::Watching => {
                let upstreams = servers(&format!(
                    "[[upstream]]\naddress = \"A\"\n{}",
                    polls("minpoll = N\nmaxpoll = N\n")
                ));
                let steer = self == Self::Steering;
                format!("{ours}source = \"upstream\"\nsteer = {steer}\n{upstreams}")
            }
            Self::System => format!("{ours}source = \"system\"\n"),
            Self::Chronyd | Self::ChronydClient => {
                let servers = servers(&format!("server A iburst{}\n", polls(" minpoll N maxpoll N")));
                // As in Debian's file. It keeps no list of leap seconds that would contradict the upstreams.
                let debian = "driftfile /var/lib/chrony/drift\nmaxupdateskew 100.0\nrtcsync\nmakestep 1 3\n";
                let allow = if self == Self::Chronyd { "allow\n" } else { "" };
                format!("{servers}{debian}pidfile /run/chrony/chronyd.pid\n{allow}")
            }
            Self::Ntpd => {
                let servers = servers(&format!("server A iburst{}\n", polls(" minpoll N maxpoll N")));
                format!(
                    "driftfile /var/lib/ntpsec/ntp.drift\ntos maxclock 11\ntos minclock 4 minsane 3\n{servers}\
                     restrict default kod nomodify nopeer noquery limited\nrestrict 127.0.0.1\nrestrict ::1\n"
                )
            }
            Self::Timesyncd => format!("[Time]\nNTP={}\n", UPSTREAMS.join(" ")),
        }
    }

    /// Starts it. Ours is up when this returns; it is an error if it refuses to start.
    pub(crate) fn start(self, guest: &mut Guest, poll: Option<u8>) -> Result<()> {
        guest.write(self.configuration_file(), &self.configuration(poll))?;
        self.start_again(guest)
    }

    /// Starts it with the configuration of before.
    pub(crate) fn start_again(self, guest: &mut Guest) -> Result<()> {
        let (name, command) = (self.name(), self.command());
        if self == Self::Timesyncd {
            // Over which it is asked what it knows.
            guest.run(
                "mkdir -p /run/dbus; \
                 /usr/bin/dbus-daemon --system --nofork --nopidfile --nosyslog >>/run/dbus.log 2>&1 & \
                 echo $! >/run/dbus.pid; \
                 ready() { [ -S /run/dbus/system_bus_socket ]; }; \
                 for try in $(seq 300); do ready && break; sleep 0.1; done; ready || { cat /run/dbus.log; false; }",
            )?;
        }
        guest.run(&format!("{command} >>/run/{name}.log 2>&1 & echo $! >/run/{name}.pid"))?;
        if !self.is_ours() {
            return Ok(());
        }
        let up = format!(
            "pooltime-xdp status --json 2>/dev/null | grep -q \"\\\"pid\\\": *$(cat /run/{name}.pid)\""
        );
        let deadline = Instant::now() + PATIENCE;
        while guest.try_run(&up)?.status != 0 {
            if guest.try_run(&format!("[ -e /proc/$(cat /run/{name}.pid) ]"))?.status != 0 {
                return Err(format!("it does not start: {}", self.log(guest)?).into());
            }
            if Instant::now() > deadline {
                return Err(format!("it does not come up: {}", self.log(guest)?).into());
            }
            sleep(LOOK);
        }
        Ok(())
    }

    /// Sends it a signal.
    pub(crate) fn signal(self, guest: &mut Guest, signal: &str) -> Result<()> {
        guest.run(&format!("kill -{signal} $(cat /run/{}.pid)", self.name())).map(|_nothing| ())
    }

    /// Waits until it has ended.
    pub(crate) fn wait(self, guest: &mut Guest) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while guest.try_run(&format!("[ -e /proc/$(cat /run/{}.pid) ]", self.name()))?.status == 0 {
            if Instant::now() > deadline {
                return Err(format!("{self} does not end").into());
            }
            sleep(LOOK);
        }
        Ok(())
    }

    /// The end of what it has said.
    pub(crate) fn log(self, guest: &mut Guest) -> Result<String> {
        Ok(guest.try_run(&format!("tail -n 200 /run/{}.log", self.name()))?.text)
    }
}

impl Display for Daemon {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Steering => "pooltime-xdp",
            Self::Watching => "pooltime-xdp, steer = false",
            Self::System => "pooltime-xdp, source = \"system\"",
            Self::Chronyd => "chronyd",
            Self::ChronydClient => "chronyd, a client only",
            Self::Ntpd => "ntpd",
            Self::Timesyncd => "systemd-timesyncd",
        })
    }
}

/// Ends all daemons, and removes what they leave.
pub(crate) fn clean_up(guest: &mut Guest) -> Result<()> {
    guest.run(
        "for file in /run/*.pid; do [ -e $file ] && kill -9 $(cat $file) 2>/dev/null; rm -f $file; done; \
         pooltime-xdp detach >/dev/null 2>&1; \
         rm -rf /run/pooltime-xdp /var/lib/pooltime-xdp /var/lib/chrony /var/lib/ntpsec /var/lib/systemd /run/chrony \
         /run/systemd /run/dbus /run/*.log; \
         mkdir -p -m 700 /var/lib/chrony /run/chrony; mkdir -p /var/lib/ntpsec /var/lib/systemd/timesync \
         /run/systemd/timesync /etc/systemd",
    )?;
    Ok(())
}
