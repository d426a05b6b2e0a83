//! The page of results, in a browser: nothing is cut off on a desk and on a phone, and no label covers another.
//!
//! Its pictures are left in `target/tmp`.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use testlab::{Output, not_run, tool};

const BENCH: &str = env!("CARGO_BIN_EXE_pooltime-bench");

const SCREENS: [(&str, u32, u32); 2] = [("desk", 1000, 2760), ("phone", 390, 2400)];

/// Looks into the page in a frame of its own, and leaves what it finds as the title of the page around it.
const LOOK: &str = "
const page = document.querySelector('iframe').contentDocument;
const covered = [];
for (const svg of page.querySelectorAll('svg')) {
  const texts = [...svg.querySelectorAll('text')].map((text) => [text.textContent, text.getBoundingClientRect()]);
  const around = svg.getBoundingClientRect();
  texts.forEach(([one, a], index) => {
    if (a.left < around.left - 1 || a.right > around.right + 1) covered.push(`${one} is cut off`);
    for (const [other, b] of texts.slice(index + 1)) {
      if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom) covered.push(`${one} and ${other}`);
    }
  });
}
const root = page.documentElement;
document.title = JSON.stringify({
  covered, wide: root.scrollWidth > root.clientWidth, plots: page.querySelectorAll('svg').length,
  labels: page.querySelectorAll('svg text').length, text: page.body.innerText,
  sorted: [...page.querySelectorAll('polyline')].every((line) => {
    const places = line.getAttribute('points').split(' ').map((point) => Number(point.split(',')[0]));
    return places.every((place, index) => index === 0 || place >= places[index - 1]);
  }),
});
";

#[test]
fn labels_can_be_read_and_points_are_in_order_on_every_screen() {
    let Some(browser) = tool("chromium-headless-shell").or_else(|| tool("chromium")) else {
        return not_run("no chromium is there");
    };
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report-page");
    fs::create_dir_all(&directory).unwrap();
    let page = directory.join("page.html");
    make_page(&page);
    for (screen, width, height) in SCREENS {
        let frame = directory.join(format!("{screen}.html"));
        let around = format!(
            "<!doctype html><body style='margin:0'><iframe src='page.html' style='border:0;width:{width}px;height:{height}px'>\
             </iframe><script>onload = () => {{ {LOOK} }}</script>"
        );
        fs::write(&frame, around).unwrap();
        let dump = look(&browser, &directory, &["--dump-dom", &format!("file://{}", frame.display())]);
        let title = dump.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next());
        let title =
            title.unwrap_or_else(|| panic!("no title: {dump}")).replace("&lt;", "<").replace("&gt;", ">");
        let seen: Value = serde_json::from_str(&title.replace("&amp;", "&")).unwrap();
        assert_eq!(seen["covered"], serde_json::json!([]), "{screen}");
        assert_eq!((&seen["wide"], &seen["sorted"]), (&false.into(), &true.into()), "{screen}: {seen:#}");
        assert_eq!(seen["plots"], 5, "{screen}");
        assert!(seen["labels"].as_u64().unwrap() > 25, "{screen}: {seen:#}");
        let text = seen["text"].as_str().unwrap();
        for part in ["--step 1.6", "pooltime-bench 0", "Linux", "UTC", "The step at", "p99.9"] {
            assert!(text.contains(part), "{screen}: no `{part}` in {text}");
        }
        let picture = directory.join(format!("{screen}.png"));
        let (size, to) =
            (format!("--window-size={width},{height}"), format!("--screenshot={}", picture.display()));
        look(&browser, &directory, &[&size, &to, &format!("file://{}", page.display())]);
        println!("picture: {}", picture.display());
        assert!(fs::metadata(&picture).unwrap().len() > 10_000);
    }
}

/// Makes a page of a search, whose steps are not in order of rate.
fn make_page(page: &Path) {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 256];
        let mut number = 0_u64;
        while let Ok((length, client)) = server.recv_from(&mut buffer) {
            number += 1;
            if number.is_multiple_of(50) {
                std::thread::sleep(Duration::from_millis(2));
            }
            if !number.is_multiple_of(97) {
                let _client_may_be_gone = server.send_to(&buffer[..length], client);
            }
        }
    });
    // As a user calls it: the page shows the command.
    let (directory, name) = (page.parent().unwrap(), page.file_name().unwrap());
    Output::of(
        Command::new("pooltime-bench")
            .env("PATH", Path::new(BENCH).parent().unwrap())
            .current_dir(directory)
            .args(["load", &address, "--echo", "--rate", "200..6000", "--step", "1.6", "--workers", "1"])
            .args(["--duration", "300ms", "--timeout", "100ms", "--warm-up", "0s", "--html"])
            .arg(name),
    )
    .expect_success();
}

fn look(browser: &Path, directory: &Path, arguments: &[&str]) -> String {
    let profile = format!("--user-data-dir={}", directory.join("profile").display());
    let mut command = Command::new(browser);
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--allow-file-access-from-files",
    ]);
    command.args(["--virtual-time-budget=3000", &profile]);
    Output::of(command.args(arguments)).expect_success()
}
