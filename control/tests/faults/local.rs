//! Faults that local users and local programs make.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::fault::PLAIN;
use crate::fault::Promise::Unharmed;
use crate::scene::Scene;

/// How long a flood goes on.
const FLOOD: Duration = Duration::from_secs(5);
/// Threads of a flood.
const FLOODERS: usize = 4;

pub(crate) fn faults() -> Vec<Fault> {
    let fault = |name, what, play| Fault { name, what, promise: Unharmed, setup: PLAIN, play };
    vec![
        fault(
            "control-flood",
            "connections to the control socket, silent ones and garbage, for 5 s",
            control_flood,
        ),
        fault(
            "http-flood",
            "connections to the status page, silent ones, halves and wholes, for 5 s",
            http_flood,
        ),
        fault("commands-flood", "deny and access remove without a pause, for 5 s", commands_flood),
    ]
}

/// Does a thing over and over from several threads until the flood is over. What it returns stays open until then. There
/// has to be something, or it was no flood.
fn flood<T>(work: impl Fn(usize) -> Option<T> + Sync) {
    let end = Instant::now() + FLOOD;
    let (work, opened) = (&work, &AtomicUsize::new(0));
    thread::scope(|scope| {
        for flooder in 0..FLOODERS {
            scope.spawn(move || {
                let mut open = Vec::new();
                for number in 0.. {
                    if Instant::now() >= end {
                        return;
                    }
                    if let Some(one) = work(number * FLOODERS + flooder) {
                        opened.fetch_add(1, Ordering::Relaxed);
                        open.push(one);
                    }
                    if open.len() > 200 {
                        open.clear();
                    }
                    sleep(Duration::from_millis(1));
                }
            });
        }
    });
    let opened = opened.load(Ordering::Relaxed);
    assert!(opened > 100, "{opened} connections are no flood");
}

fn control_flood(scene: &mut Scene<'_>) -> Result<(), String> {
    let socket = scene.server.paths().socket();
    flood(|number| {
        let mut stream = UnixStream::connect(&socket).ok()?;
        stream.set_write_timeout(Some(Duration::from_millis(100))).ok()?;
        let _refused = match number % 3 {
            0 => Ok(()),
            1 => stream.write_all(b"{\"status\""),
            _ => stream.write_all(&vec![b'x'; 100_000]),
        };
        Some(stream)
    });
    Ok(())
}

fn http_flood(scene: &mut Scene<'_>) -> Result<(), String> {
    let lab = scene.lab;
    lab.inside("server", || {
        // Threads inherit the network namespace of the one that starts them.
        flood(|number| {
            let mut stream = TcpStream::connect("127.0.0.1:9200").ok()?;
            stream.set_read_timeout(Some(Duration::from_millis(100))).ok()?;
            let _refused = match number % 3 {
                0 => Ok(()),
                1 => stream.write_all(b"GET /metrics HTT"),
                _ => stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            };
            let _nothing = stream.read(&mut [0; 4096]);
            Some(stream)
        });
    });
    Ok(())
}

fn commands_flood(scene: &mut Scene<'_>) -> Result<(), String> {
    let server = &scene.server;
    let end = Instant::now() + FLOOD;
    while Instant::now() < end {
        server.command(&["deny", "203.0.113.0/24", "--for", "1m"]).expect_success();
        server.command(&["access", "remove", "203.0.113.0/24"]).expect_success();
    }
    Ok(())
}
