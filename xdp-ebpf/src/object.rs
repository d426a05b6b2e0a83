//! What each object needs besides its programs.

/// Never runs: the verifier would refuse a program that can reach the loop.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// Before Linux 5.8, `bpf_ktime_get_ns` is only for GPL-compatible programs; MIT is compatible.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
