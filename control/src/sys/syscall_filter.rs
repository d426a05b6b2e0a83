//! System calls that the process gives up for ever, for whoever starts it without a service manager that does so.
//!
//! The filter names what is refused and lets everything else through, as systemd does with `SystemCallFilter=~`: what a
//! C library needs differs from one to the next, and programs that are run, such as busctl, are filtered as well. What
//! is refused fails with EPERM, as without the privilege, so that nothing is killed for having tried.

use crate::error::{Code, Error, Result};

/// Refuses system calls in all threads of this process, and in all programs that it runs. These cannot get more
/// privileges by being run any more (`no_new_privs`).
///
/// # Errors
///
/// The kernel has no seccomp filters. That it lets this process have no other one than it has already is none: systemd's
/// filter of the service does not let it.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
pub(crate) fn refuse_unneeded() -> Result<()> {
    match list::install() {
        Err(_) if is_filtered() => Ok(()),
        installed => installed.map_err(Error::because(Code::Os, "system calls cannot be filtered")),
    }
}

/// Whether the process has a filter already.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
fn is_filtered() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().filter_map(|line| line.strip_prefix("Seccomp:")).any(|mode| mode.trim() == "2")
}

/// As above, on machines that the filter is not made for.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
pub(crate) fn refuse_unneeded() -> Result<()> {
    Err(Error::new(Code::Os, "system calls are not filtered on this kind of machine"))
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
mod list {
    use std::collections::BTreeMap;

    use nix::libc::{self, c_long};
    use seccompiler::{
        BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule, TargetArch, apply_filter_all_threads,
    };

    /// Ways out of what the process may see, or to change what others see: file systems, roots and namespaces.
    const MOUNTS_AND_NAMESPACES: &[c_long] = &[
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_mount_setattr,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_open_by_handle_at,
        libc::SYS_mknodat,
    ];
    /// The machine as a whole: whether it runs, which kernel and modules, its name, its swap space and quotas.
    const MACHINE: &[c_long] = &[
        libc::SYS_reboot,
        libc::SYS_kexec_load,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_sethostname,
        libc::SYS_setdomainname,
        libc::SYS_acct,
        libc::SYS_quotactl,
        libc::SYS_syslog,
        libc::SYS_vhangup,
        libc::SYS_fanotify_init,
    ];
    /// The memory and the files of other processes. This one is not traced by anything that it runs, either.
    const OTHER_PROCESSES: &[c_long] = &[
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_process_madvise,
        libc::SYS_kcmp,
        libc::SYS_pidfd_getfd,
        libc::SYS_perf_event_open,
        libc::SYS_move_pages,
        libc::SYS_migrate_pages,
    ];
    /// The clock is steered by adjtimex(2), which checks what it is told. These two are not used for it.
    const CLOCK: &[c_long] = &[libc::SYS_settimeofday, libc::SYS_clock_settime];
    /// Parts of the kernel that are not used here, and by which kernels were often broken into.
    const LARGE_SURFACES: &[c_long] = &[
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_personality,
    ];
    /// Access to hardware past the kernel, other instruction sets, and calls that only old programs make.
    #[cfg(target_arch = "x86_64")]
    const OF_THIS_MACHINE: &[c_long] = &[
        libc::SYS_iopl,
        libc::SYS_ioperm,
        libc::SYS_modify_ldt,
        libc::SYS_kexec_file_load,
        libc::SYS_mknod,
        libc::SYS_uselib,
        libc::SYS_ustat,
        libc::SYS_sysfs,
        libc::SYS__sysctl,
        libc::SYS_nfsservctl,
        libc::SYS_lookup_dcookie,
    ];
    #[cfg(not(target_arch = "x86_64"))]
    const OF_THIS_MACHINE: &[c_long] = &[];

    /// Flags of clone(2) that make namespaces.
    const NAMESPACES: [libc::c_int; 7] = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ];

    pub(super) fn install() -> Result<(), Error> {
        let groups =
            [MOUNTS_AND_NAMESPACES, MACHINE, OTHER_PROCESSES, CLOCK, LARGE_SURFACES, OF_THIS_MACHINE];
        let mut refused: BTreeMap<_, _> =
            groups.into_iter().flatten().map(|number| (*number, Vec::new())).collect();
        refused.insert(libc::SYS_clone, NAMESPACES.map(with_flag).into_iter().collect::<Result<_, _>>()?);
        put_on(refused, libc::EPERM)?;
        // The flags of clone3 are in memory, where no filter can see them. C libraries go back to clone without it.
        put_on(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)
    }

    /// The flags are the first argument on all these machines.
    fn with_flag(flag: libc::c_int) -> Result<SeccompRule, Error> {
        let flag = u64::from(flag.cast_unsigned());
        let is_set = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)?;
        Ok(SeccompRule::new(vec![is_set])?)
    }

    fn put_on(refused: BTreeMap<c_long, Vec<SeccompRule>>, error: libc::c_int) -> Result<(), Error> {
        let refuse = SeccompAction::Errno(error.cast_unsigned());
        let machine = TargetArch::try_from(std::env::consts::ARCH)?;
        let filter = SeccompFilter::new(refused, SeccompAction::Allow, refuse, machine)?;
        let program = BpfProgram::try_from(filter)?;
        apply_filter_all_threads(&program)
    }
}

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
mod tests {
    use std::net::ToSocketAddrs as _;
    use std::process::Command;

    use nix::errno::Errno;
    use nix::mount::{MsFlags, mount};
    use nix::sys::time::TimeSpec;
    use nix::time::{ClockId, clock_gettime, clock_settime};

    use super::*;

    const FILTERED: &str = "POOLTIME_TEST_IS_FILTERED";

    /// A filter never goes, so it is put on a process of its own: this test runs itself.
    #[test]
    fn what_is_refused_fails_and_everything_else_works() {
        if std::env::var_os(FILTERED).is_some() {
            return in_a_process_of_its_own();
        }
        let own = "sys::syscall_filter::tests::what_is_refused_fails_and_everything_else_works";
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", own, "--nocapture"])
            .env(FILTERED, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
    }

    fn in_a_process_of_its_own() {
        let ran = |program: &str, arguments: &[&str]| Command::new(program).args(arguments).output().unwrap();
        refuse_unneeded().unwrap();
        let none: Option<&str> = None;
        assert_eq!(mount(none, "/no/such/place", none, MsFlags::empty(), none), Err(Errno::EPERM));
        let now: TimeSpec = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
        // No machine lets this clock be set: without the filter, that is EINVAL.
        assert_eq!(clock_settime(ClockId::CLOCK_MONOTONIC, now), Err(Errno::EPERM));
        for arguments in [["--user", "true"], ["--mount", "true"], ["--net", "true"]] {
            let unshared = ran("unshare", &arguments);
            let said = String::from_utf8_lossy(&unshared.stderr);
            assert!(!unshared.status.success() && said.contains("not permitted"), "{unshared:?}");
        }

        assert_eq!(ran("sh", &["-c", "echo $((1 + 1))"]).stdout, b"2\n");
        assert_eq!(std::thread::spawn(|| 2).join().unwrap(), 2);
        assert!(("localhost", 123).to_socket_addrs().unwrap().next().is_some());
        assert!(std::net::UdpSocket::bind("127.0.0.1:0").is_ok());
        assert!(crate::sys::adjtimex().is_ok());
        // Another one on top of it changes nothing.
        refuse_unneeded().unwrap();
    }
}
