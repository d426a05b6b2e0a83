//! The paths of the HTTP server and what each returns.

use std::convert::Infallible;
use std::sync::LazyLock;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;

use super::hosts::Hosts;
use super::{Observer, metrics};
use crate::error::Error;
use crate::status::Status;
use crate::status::exposition::Format;
use crate::status::health::Health;
use crate::status::probes::LatestRound;
use crate::status::traffic::Talker;
use crate::sys::process;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
/// Style and script are embedded, so that the page is complete in itself.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    include_str!("page/index.html")
        .replace("STYLE", include_str!("page/style.css"))
        .replace("SCRIPT", include_str!("page/script.js"))
});
/// The page loads nothing and contacts only this server.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                           img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The data of the page.
#[derive(Serialize)]
struct Page<'a> {
    /// The version of this format. Keys may be added within a version; none is removed.
    format: u32,
    /// The name of this host.
    host: String,
    /// Whether no upstream answers any more.
    upstreams_silent: bool,
    /// The content of `status --json`.
    status: &'a Status,
    health: Health,
    /// Present only if the configuration allows it: addresses are personal data.
    sources: Option<Vec<Talker>>,
    /// The latest rounds of the pool's monitors, with their addresses under the same condition.
    probe_rounds: Vec<LatestRound>,
}

impl<'a> Page<'a> {
    fn of(status: &'a Status, sources: Option<Vec<Talker>>, probe_rounds: Vec<LatestRound>) -> Self {
        Self {
            format: 1,
            host: process::host_name(),
            upstreams_silent: status.upstreams_are_silent(),
            status,
            health: Health::of(status),
            sources,
            probe_rounds,
        }
    }
}

/// Answers a request.
pub(super) async fn answer(
    request: &Request<Incoming>,
    hosts: &Hosts,
    observer: &Observer,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if !hosts.are_meant_by(request) {
        return Ok(respond(
            StatusCode::MISDIRECTED_REQUEST,
            TEXT,
            "this server is not known by the name in the request; if it is yours, add it to `[metrics] hosts` in its \
             configuration, or use the address\n"
                .into(),
        ));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal =
            respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD are supported\n".into());
        refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(refusal);
    }
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    Ok(match request.uri().path() {
        "/" => {
            let mut page = respond(StatusCode::OK, HTML, PAGE.clone());
            let policy = HeaderValue::from_static(PAGE_POLICY);
            page.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
            page
        }
        "/metrics" => {
            show(observer, |status| {
                let format = Format::negotiate(accept.unwrap_or_default());
                respond(StatusCode::OK, format.content_type(), format.write(&metrics::families(status)))
            })
            .await
        }
        "/status.json" => {
            let sources = observer.sources();
            let rounds = observer.latest_rounds();
            show(observer, |status| json(&Page::of(status, sources, rounds))).await
        }
        "/history.json" => json(&*observer.history.borrow()),
        "/healthz" => {
            show(observer, |status| {
                let health = Health::of(status);
                let code = if health.healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                respond(code, TEXT, health.to_text())
            })
            .await
        }
        _ => respond(
            StatusCode::NOT_FOUND,
            TEXT,
            "available: /, /metrics, /healthz, /status.json and /history.json\n".into(),
        ),
    })
}

async fn show(
    observer: &Observer,
    render: impl FnOnce(&Status) -> Response<Full<Bytes>>,
) -> Response<Full<Bytes>> {
    match observer.status().await {
        Ok(status) => render(&status),
        Err(error) => unavailable(&error),
    }
}

fn unavailable(error: &Error) -> Response<Full<Bytes>> {
    respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("NOT HEALTHY\n  {error}\n"))
}

fn json<T: Serialize>(value: &T) -> Response<Full<Bytes>> {
    match serde_json::to_string(value) {
        Ok(text) => respond(StatusCode::OK, JSON, text),
        Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
    }
}

fn respond(code: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use responder::verdict::Verdict;

    use super::*;
    use crate::status::probes::Fate;

    #[test]
    fn the_page_has_words_for_every_verdict_and_fate_and_loads_nothing() {
        for verdict in Verdict::ALL.iter().filter(|verdict| **verdict != Verdict::NotNtp) {
            assert!(PAGE.contains(&format!("  {}: \"", verdict.label())), "{}", verdict.label());
        }
        for fate in Fate::ALL {
            assert!(PAGE.contains(&format!("  {}: \"", fate.label())), "{}", fate.label());
        }
        assert!(!PAGE.contains("src=") && !PAGE.contains("@import") && !PAGE.contains("https://"));
    }
}
