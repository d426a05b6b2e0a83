# What the scripts share: messages, and who builds. Sourced, never run.
# shellcheck shell=bash

# shellcheck disable=SC2034 # for the scripts that source this, as all that is not used here
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*" >&2; }

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Prints the comment at the top of the script that asks: its help.
help() { sed -n '2,/^[^#]/{ s/^# \{0,1\}//p }' "$0"; }

# Under sudo, cargo belongs to whoever called sudo: toolchains, caches and everything built stay theirs. Without
# sudo, root's or a user's own are used.
if ((EUID == 0)) && ((${SUDO_UID:-0} != 0)); then
    builder=$SUDO_USER
    builder_home=$(getent passwd "$SUDO_UID" | cut -d: -f6)
    builder_path=${CARGO_HOME:-$builder_home/.cargo}/bin:$PATH
    builder_cache=${XDG_CACHE_HOME:-$builder_home/.cache}/pooltime-xdp
else
    builder=
    builder_path=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    builder_cache=${XDG_CACHE_HOME:-$HOME/.cache}/pooltime-xdp
fi

# Chrony, ntpdate and ntpq for the tests; `scripts/setup` fills it.
# shellcheck disable=SC2034
tools=$builder_cache/tools

# Runs a command as the one who builds, with cargo in the path. runuser and not sudo -u: it needs no terminal
# and keeps proxies and cargo's own variables.
as_builder() {
    if [[ $builder ]]; then
        runuser -u "$builder" -- env HOME="$builder_home" USER="$builder" LOGNAME="$builder" PATH="$builder_path" "$@"
    else
        env PATH="$builder_path" "$@"
    fi
}

as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "needs root for: $*"
    fi
}

# Named where the eBPF programs are built.
ebpf_toolchain() { sed -n 's/^const TOOLCHAIN: .* "\(.*\)";/\1/p' "$root/xdp-ebpf/build/lib.rs"; }

# Puts the table in a file $3 into the document $1, between the marks of the command $2 that makes it.
replace() {
    local text=$1 begin="<!-- $2: begin -->" end="<!-- $2: end -->" made
    grep -qF "$begin" "$text" || die "$text has no place for the table"
    made=$(awk -v begin="$begin" -v end="$end" -v table="$3" '
        $0 == begin { print; while ((getline line < table) > 0) print line; skip = 1 }
        $0 == end { skip = 0 }
        !skip { print }
    ' "$text")
    printf '%s\n' "$made" >"$text"
}
