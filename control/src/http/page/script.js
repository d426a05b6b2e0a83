"use strict";

const POLL_MS = 1000;
const HISTORY_MS = 10000;
const HOUR_S = 3600;
/// What a plot shows at the least.
const SHORTEST_S = 300;

const VERDICTS = {
  answered: "answered",
  answered_unsynchronised: "answered: not synchronised",
  answered_leaked: "answered by chance, over its rate",
  answered_known: "answered over its rate: a known source's usual path",
  kiss_rate: "told to ask less often (RATE)",
  kiss_deny: "told not to ask (DENY)",
  pass_for_others: "passed: not our address",
  pass_station: "passed: another station's frame, or VLAN",
  pass_fragment: "passed to the socket: fragment",
  pass_long: "passed to the socket: longer than 48 bytes",
  pass_mode: "passed: not a client's request",
  pass_version: "passed: unknown version",
  pass_clock: "passed to the socket: clock not readable",
  drop_source: "dropped: impossible source",
  drop_control: "dropped: control message",
  drop_unanswered: "dropped: a mode or version that nobody answers",
  drop_length: "dropped: wrong length",
  drop_checksum: "dropped: wrong or missing checksum",
  drop_limited: "dropped: over its rate",
  drop_denied: "dropped: on the deny list",
  drop_budget: "dropped: the server's budget is spent",
  drop_unsent: "lost: the socket could not send the answer",
};

const at = (id) => document.getElementById(id);

/// Only where it differs: a screen reader is told of changes, and a selection stays.
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function count(value) {
  return Math.round(value).toLocaleString("en").replaceAll(",", "\u202f");
}

function rate(value) {
  if (value === null) return "–";
  return value > 0 && value < 10 ? value.toFixed(1) : count(value);
}

function seconds(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0 s";
  const [unit, factor] = size < 1e-6 ? ["ns", 1e9] : size < 1e-3 ? ["µs", 1e6] : size < 1 ? ["ms", 1e3] : ["s", 1];
  return `${(value * factor).toPrecision(3).replace("-", "\u2212")} ${unit}`;
}

function span(value) {
  if (value < 120) return `${Math.floor(value)} s`;
  if (value < 7200) return `${Math.floor(value / 60)} min`;
  return value < 172800 ? `${Math.floor(value / 3600)} h` : `${Math.floor(value / 86400)} d`;
}

/// Rows of cells; the first cell is the row's heading. A cell is a text or { text, className }.
function fill(table, rows) {
  const body = at(table).tBodies[0];
  const section = at(`${table}-section`);
  if (section) section.hidden = rows.length === 0;
  const text = JSON.stringify(rows);
  if (body.dataset.rows === text) return;
  body.dataset.rows = text;
  body.replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    cells.forEach((cell, column) => {
      const element = document.createElement(column === 0 ? "th" : "td");
      if (column === 0) element.scope = "row";
      element.textContent = cell.text ?? cell;
      element.className = cell.className ?? "";
      row.append(element);
    });
    return row;
  }));
}

function facts(list, pairs) {
  const elements = pairs.flatMap(([name, value]) => {
    const [term, definition] = [document.createElement("dt"), document.createElement("dd")];
    [term.textContent, definition.textContent] = [name, value];
    return [term, definition];
  });
  at(list).replaceChildren(...elements);
}

/// Packets of all interfaces that fit.
function packets(status, fits) {
  return status.interfaces.flatMap((one) => one.counters).filter(fits).reduce((sum, one) => sum + one.packets, 0);
}

const isAnswer = (counter) => counter.verdict.startsWith("answered");
const isRefusal = (counter) => counter.verdict.startsWith("drop_") || counter.verdict.startsWith("kiss_");
const isRequest = (counter) => isAnswer(counter) || isRefusal(counter) || /^pass_(long|fragment|clock)$/.test(counter.verdict);

let before = null;

/// A second, between the last two looks; null where that cannot be said.
function perSecond(status, fits) {
  const elapsed = before && status.daemon && before.daemon ? status.daemon.uptime_s - before.daemon.uptime_s : 0;
  return elapsed > 0 ? Math.max(0, packets(status, fits) - packets(before, fits)) / elapsed : null;
}

function list(id, lines) {
  const text = lines.join("\n");
  if (at(id).dataset.text === text) return;
  at(id).dataset.text = text;
  at(id).replaceChildren(...lines.map((line) => {
    const item = document.createElement("li");
    item.textContent = line;
    return item;
  }));
}

/// What is worth knowing although nothing is wrong: that the limits are at work, and for whom.
function limitsAtWork(status, sources) {
  const [answered, refused] = [perSecond(status, isAnswer), perSecond(status, isRefusal)];
  if (refused === null || refused < 10 || refused <= answered) return [];
  const most = (sources ?? [])[0];
  const whom = most ? `most of all from ${most.source}` : "`pooltime-xdp top` shows from whom";
  // A screen reader is told of each change, so this changes seldom.
  const share = Math.floor((10 * refused) / (refused + answered)) * 10;
  return [`The limits are at work: more than ${share} % of the requests are refused now, ${whom}. ` +
    "Clients that keep to the limits are answered."];
}

function showVerdict({ status, health, sources, host, upstreams_silent }) {
  const amber = health.healthy && upstreams_silent;
  const headline = amber ? "Serving good time without its upstreams"
    : health.healthy ? "Serving good time" : "NOT serving good time";
  at("verdict").className = amber ? "amber" : health.healthy ? "good" : "bad";
  say(at("headline"), headline);
  document.title = `${headline} · ${host || "pooltime-xdp"}`;
  say(at("host"), host);
  list("reasons", health.reasons);
  list("notes", [...health.warnings, ...limitsAtWork(status, sources)]);
  const clock = status.clock;
  const parts = [`Stratum ${clock.stratum}`, `reference ${clock.reference}`, `source ${clock.source}`,
    `error bound ${seconds(clock.error_bound_s)}`, `horizon ${seconds(clock.horizon_s)}`];
  if (clock.offset_s !== null) parts.push(`offset ${seconds(clock.offset_s)}`);
  if (clock.frequency_ppm !== null) parts.push(`frequency ${clock.frequency_ppm.toFixed(3)} ppm`);
  parts.push(`steps ${clock.steps}`);
  say(at("clock"), clock.synchronised ? parts.join(", ")
    : "Answers say that the clock is not synchronised (leap 3, stratum 0).");
  say(at("as-of"), `· as of ${new Date().toLocaleTimeString()}`);
}

function showFigures(status) {
  say(at("rate-answered"), rate(perSecond(status, isAnswer)));
  say(at("rate-refused"), rate(perSecond(status, isRefusal)));
  say(at("total-answered"), count(packets(status, isAnswer)));
  say(at("error-bound"), seconds(status.clock.error_bound_s));
  const daemon = status.daemon;
  say(at("daemon"), `${status.version}, up ${span(daemon.uptime_s)}, ${(daemon.resident_bytes / 2 ** 20).toFixed(1)} MiB`);
}

function showTraffic(status) {
  const seen = Object.keys(VERDICTS).filter((verdict) => packets(status, (one) => one.verdict === verdict) > 0);
  const of = (verdict, family) => packets(status, (one) => one.verdict === verdict && one.family === family);
  fill("verdicts", (seen.length ? seen : ["answered"]).map((verdict) => [
    VERDICTS[verdict], count(of(verdict, "ipv4")), count(of(verdict, "ipv6")),
    rate(perSecond(status, (one) => one.verdict === verdict)),
  ]));
  const all = packets(status, isRequest);
  const ask = (version, family) =>
    packets(status, (one) => isRequest(one) && one.version === version && (!family || one.family === family));
  fill("versions", [4, 3, 2, 1, 0].filter((version) => version > 2 || ask(version) > 0).map((version) => [
    version ? `NTP ${version}` : "not read", count(ask(version, "ipv4")), count(ask(version, "ipv6")),
    all ? `${(100 * ask(version) / all).toFixed(1)} %` : "–",
  ]));
  const limits = status.limits;
  const pairs = [];
  for (const { family, last_hour } of limits?.clients ?? []) {
    pairs.push([`Clients over ${family === "ipv4" ? "IPv4" : "IPv6"}, last hour`, `about ${count(last_hour)}`]);
  }
  if (limits) {
    pairs.push(["Limit of a source", limits.enabled ? `${limits.rate} a second, ${limits.burst} at once` : "off"]);
    pairs.push(["Table of sources", `${count(limits.table_in_use)} of ${count(limits.table_entries)} in use`]);
    if (limits.evictions !== undefined) pairs.push(["Forgotten early", `about ${count(limits.evictions)}`]);
    if (limits.known_sources != null) pairs.push(["Known from earlier", count(limits.known_sources)]);
    pairs.push(["Entries of the access lists", count(limits.access_entries)]);
  }
  pairs.push(...quotaRows(status.quota));
  facts("limits", pairs);
}

/// An amount of data with three digits.
function amount(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
  const power = Math.min(bytes < 1 ? 0 : Math.floor(Math.log10(bytes * 1.0005) / 3), units.length - 1);
  return power ? `${(bytes / 1000 ** power).toPrecision(3)} ${units[power]}` : `${Math.round(bytes)} B`;
}

/// How far the traffic quota is used, and what is to come of it.
function quotaRows(quota) {
  if (!quota) return [];
  const day = (unix_s) => new Date(unix_s * 1000).toISOString().slice(0, 10);
  const used = `${amount(quota.used_bytes)} of ${amount(quota.quota_bytes)} (${quota.counts})`;
  const end = quota.period_end_unix_s === null ? "" : ` until ${day(quota.period_end_unix_s)}`;
  const rows = [["Traffic quota", used + end]];
  if (quota.used_up_unix_s !== null) rows.push(["Quota used up at this rate", day(quota.used_up_unix_s)]);
  else if (quota.forecast_bytes !== null) rows.push(["Quota by then at this rate", amount(quota.forecast_bytes)]);
  if (quota.cap_bytes_per_s !== null) rows.push(["Answers capped to", `${amount(quota.cap_bytes_per_s)}/s`]);
  return rows;
}

function showUpstreams(upstreams) {
  const named = (one) => one.address && one.address !== one.name ? `${one.name} (${one.address})` : one.name;
  fill("upstreams", (upstreams ?? []).map((one) => [
    one.tally === "system_peer" ? { text: `* ${named(one)}`, className: "system" } : named(one),
    one.tally === "falseticker" || one.trouble
      ? { text: one.trouble ?? one.standing, className: "alarm" }
      : one.tally === "system_peer" ? `system peer: ${one.standing}` : one.standing,
    String(one.stratum), `${one.reach.toString(2).replaceAll("0", "").length} of 8`, span(2 ** one.poll_log2),
    seconds(one.offset_s), seconds(one.delay_s), seconds(one.jitter_s),
  ]));
}

function showSources(sources) {
  fill("sources", (sources ?? []).map((one) => [one.source, rate(one.requests_per_s), rate(one.dropped_per_s)]));
}

/// What became of probes.
const FATES = {
  answered: "answered",
  leaked: "answered by chance",
  known_path: "answered over its rate",
  unsynchronised: "not synchronised",
  limited: "limited",
  kiss_rate: "kiss of death RATE",
  over_budget: "over budget",
  denied: "denied",
  kiss_deny: "kiss of death DENY",
  unsent: "not sent",
};

function showProbes(rounds) {
  fill("probes", rounds.map((round) => {
    const served = round.outcomes.some((outcome) => ["answered", "leaked", "known_path"].includes(outcome));
    const text = round.outcomes.map((outcome) => FATES[outcome] ?? outcome).join(", ");
    return [
      new Date(round.at_unix_s * 1000).toLocaleTimeString(), round.source ?? "not shown",
      round.family === "ipv4" ? "IPv4" : "IPv6", served ? text : { text, className: "alarm" },
    ];
  }));
}

function showInterfaces(status) {
  fill("interfaces", status.interfaces.map((one) => {
    const driver = one.driver;
    const lost = driver.receive_dropped + driver.receive_missed + driver.transmit_dropped;
    const mode = one.mode ? (one.up ? one.mode : `${one.mode}, down`) : "not attached";
    return [
      one.name, one.mode && one.up ? mode : { text: mode, className: "alarm" }, one.addresses.join(", ") || "none",
      `${driver.receive_queues} in, ${driver.transmit_queues} out`, count(lost),
    ];
  }));
}

/// The smallest of 1, 2 and 5 times a power of ten that is not below the value.
function niceStep(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((part) => part * power).find((step) => step >= value * 0.999);
}

/// Lines through [x, y] points of the last hour, or of what there is of it; gaps where y is null or no step was kept.
/// `marks` has the times at which the daemon was started, and from when to when it was not synchronised.
function plot(figure, lines, floor, label, marks, description) {
  const [width, height, now] = [600, 180, Date.now() / 1000];
  const values = lines.flatMap((points) => points.map(([, y]) => y)).filter((y) => y !== null);
  const [least, high] = [Math.min(floor, ...values), Math.max(floor, ...values)];
  const step = niceStep(high > least ? (high - least) / 3 : 1);
  const [low, top] = [Math.floor(least / step) * step, Math.max(Math.ceil(high / step), 1) * step];
  const shown = Math.min(HOUR_S, Math.max(SHORTEST_S, now - (lines[0][0]?.[0] ?? now)));
  const x = (time) => width * (1 - (now - time) / shown);
  const y = (value) => height * (1 - (value - low) / (top - low));
  const path = (points, close) => {
    let [text, last, first] = ["", null, null];
    const end = () => { if (close && first !== null) text += `L${x(last).toFixed(1)} ${y(floor)}L${x(first).toFixed(1)} ${y(floor)}Z`; };
    for (const [time, value] of points) {
      if (value === null || now - time > HOUR_S) continue;
      const joined = last !== null && time - last < 25;
      if (!joined) { end(); first = time; }
      text += `${joined ? "L" : "M"}${x(time).toFixed(1)} ${y(value).toFixed(1)}`;
      last = time;
    }
    end();
    return text;
  };
  const make = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const ticks = Array.from({ length: Math.round((top - low) / step) + 1 }, (_, number) => low + number * step);
  const grid = ticks.map((tick) => make("line", { x1: 0, x2: width, y1: y(tick), y2: y(tick) }));
  const outages = marks.outages.filter(([, to]) => now - to < shown).map(([from, to]) => make("rect", {
    class: "outage", x: Math.max(0, x(from)), y: 0, height, width: Math.max(2, x(to) - Math.max(0, x(from))),
  }));
  const starts = marks.starts.filter((time) => now - time < shown)
    .map((time) => make("line", { class: "restart", x1: x(time), x2: x(time), y1: 0, y2: height }));
  const svg = at(figure).querySelector("svg");
  svg.replaceChildren(...outages, ...grid, make("path", { class: "fill", d: path(lines[0], true) }),
    ...lines.map((points, number) => make("path", { class: number ? "two" : "one", d: path(points) })), ...starts);
  svg.setAttribute("aria-label", description(high));
  say(at(figure).querySelector(".peak"), values.length ? `highest ${label(high)}` : "the first point is yet to come");
  at(figure).querySelector(".two").hidden = lines[1].every(([, value]) => value === null);
  at(figure).querySelector(".key.outage").hidden = outages.length === 0;
  at(figure).querySelector(".key.restart").hidden = starts.length === 0;
  const span_ = (text, style) => {
    const element = document.createElement("span");
    element.textContent = text;
    Object.assign(element.style, style);
    return element;
  };
  at(figure).querySelector(".y").replaceChildren(
    ...ticks.map((tick) => span_(label(tick), { top: `${(100 * y(tick)) / height}%` })));
  at(figure).querySelector(".x").replaceChildren(...[1, 0.75, 0.5, 0.25, 0].map((part) =>
    span_(part ? `${span(shown * part)} ago` : "now", {})));
}

async function get(path) {
  const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(5000) });
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

/// Each time from when to when answers were not synchronised.
function outagesIn(steps) {
  const outages = [];
  for (const { unix_s, synchronised } of steps) {
    const last = outages.at(-1);
    if (synchronised) continue;
    if (last && unix_s - last[1] < 25) last[1] = unix_s;
    else outages.push([unix_s - 10, unix_s]);
  }
  return outages;
}

async function showHistory() {
  const { steps } = await get("/history.json");
  const line = (pick) => steps.map((step) => [step.unix_s, pick(step)]);
  const starts = before?.daemon ? [before.daemon.started_unix_s] : [];
  const marks = { starts, outages: outagesIn(steps) };
  plot("plot-requests", [line((step) => step.answered), line((step) => step.refused)], 0, rate, marks, (high) =>
    `Packets a second over the last hour: ${steps.length ? rate(steps.at(-1).answered) : "none"} answered at last, ${rate(high)} at the most`);
  plot("plot-clock", [line((step) => step.error_bound_s), line((step) => step.offset_s)], 0, seconds, marks, (high) =>
    `Error bound over the last hour: ${steps.length ? seconds(steps.at(-1).error_bound_s) : "unknown"} at last, ${seconds(high)} at the most`);
}

async function showAll() {
  const all = await get("/status.json");
  const { status, sources, probe_rounds } = all;
  showVerdict(all);
  showFigures(status);
  showTraffic(status);
  showUpstreams(status.upstreams);
  showSources(sources);
  showProbes(probe_rounds);
  showInterfaces(status);
  before = status;
}

/// The next look comes after this one has ended, whatever became of it.
async function repeat(show, interval, failed) {
  try {
    await show();
  } catch (error) {
    failed?.(error);
  }
  setTimeout(() => repeat(show, interval, failed), interval);
}

repeat(showAll, POLL_MS, (error) => {
  before = null;
  at("verdict").className = "bad";
  say(at("headline"), "No word from the server");
  document.title = `No word from the server · ${at("host").textContent || "pooltime-xdp"}`;
  say(at("clock"), `What is below is from the last time that it answered. ${error.message}`);
  list("reasons", []);
  list("notes", []);
});
repeat(showHistory, HISTORY_MS);
