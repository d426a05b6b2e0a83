//! Who holds a port that this server wants.

/// The name and number of the process that holds a local port, for the operator. `table` is a file of
/// /proc/net: udp, udp6, tcp or tcp6.
pub(crate) fn of_port(table: &str, port: u16) -> Option<String> {
    // Of this thread's network namespace.
    let text = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok()?;
    let inode = text.lines().skip(1).find_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let (address, remote, inode) = (columns.get(1)?, columns.get(2)?, columns.get(9)?);
        // Connections have the same port at this end.
        let listens = remote.ends_with(":0000");
        let held = u16::from_str_radix(address.rsplit(':').next()?, 16).ok()?;
        (held == port && listens).then(|| (*inode).to_owned())
    })?;
    let wanted = format!("socket:[{inode}]");
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let pid = process.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let holds = |descriptor: std::fs::DirEntry| {
            std::fs::read_link(descriptor.path()).is_ok_and(|target| target.to_string_lossy() == wanted)
        };
        if descriptors.flatten().any(holds) {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {pid})", name.trim()));
        }
    }
    None
}
