#!/usr/bin/env bash
# Installs whatever the build needs, and does nothing (in half a second) when it is all there.
#
#   scripts/setup.sh            install what is missing
#   scripts/setup.sh --check    only tell what is missing; exit status 1 if anything is
#   scripts/setup.sh --deny     cargo-deny as well (dependencies: advisories, licences, sources)
#   scripts/setup.sh --zombienet
#                               zombienet as well, for scripts/zombienet.sh
#   scripts/setup.sh --natlab   what the NAT lab runs as well, for scripts/natlab.sh; of the servers
#                               among it none is started on this machine, now or when it boots
#   scripts/setup.sh --wasm-libs DIR
#                               only build core, alloc and compiler_builtins for wasm32v1-none
#                               into DIR, from the sources of the standard library
#
# Rust comes from rustup where that can fetch a target, otherwise from Debian's packages. The other
# scripts call this one themselves.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

target=wasm32v1-none
# Versions that compile with the oldest compiler allowed.
nextest_version=0.9.143
deny_version=0.20.2
# What rustup is asked for when the compiler in use is too old.
rust_version=1.96.0
# Debian's Rust, and what its compiler needs to link wasm.
debian_rust="rustc-web cargo-web rust-web-src rust-web-llvm rust-web-clippy rustfmt-web lld-22"
# Seconds.
rustup_limit=600

usage() {
    sed -n '2,16s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

# ---- installing ---------------------------------------------------------------------------------

# Makes sure that commands can be run as root, for the purpose $1; `as_root` then runs them.
need_root() {
    [ "$(id -u)" != 0 ] || return 0
    have sudo || die "$1 needs root, and there is no sudo" "Run scripts/setup.sh as root."
    say "$1 needs root: sudo may ask for your password"
    sudo -v || die "sudo did not let us" "Run scripts/setup.sh as root."
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Runs a command with its output in a log, of which the end is shown if it fails. $1 is what it does.
quietly() {
    local log="$NSN_SETUP/last.log" what=$1
    shift
    mkdir -p "$NSN_SETUP"
    if ! "$@" >"$log" 2>&1; then
        tail -n 15 "$log" >&2
        say "$what failed; its whole output is in $log"
        return 1
    fi
}

# Gives a command of rustup a limit, since a network that swallows packets would hold it up for good.
limited() {
    if have timeout; then
        RUST_BACKTRACE=0 timeout $rustup_limit "$@"
    else
        RUST_BACKTRACE=0 "$@"
    fi
}

apt_knows() {
    have apt-cache && apt-cache show "$@" >/dev/null 2>&1
}

# Whether the package system has all of $@; a list that was never fetched, or is stale, is fetched.
apt_has() {
    apt_knows "$@" && return 0
    have apt-get || return 1
    need_root "fetching the list of packages"
    quietly "apt-get update" as_root apt-get update || true
    apt_knows "$@"
}

apt_install() {
    need_root "installing packages"
    apt_has "$@" || die "the system's packages do not hold all of: $*" \
        "'apt-cache policy NAME' tells which is missing; Debian 12 or later has them."
    # A list can name versions that its server has replaced since: then once more with a new one.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y "$@" >/dev/null 2>&1 ||
        quietly "apt-get update" as_root apt-get update || true
    quietly "apt-get install" as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y "$@" ||
        die "the packages could not be installed: $*" "The output above says why."
}

# ---- programs of the system ---------------------------------------------------------------------

# Debian's names of the packages whose program is not there.
missing_packages() {
    local pair
    for pair in cc:build-essential clang:clang cmake:cmake protoc:protobuf-compiler \
        pkg-config:pkg-config jq:jq; do
        have "${pair%%:*}" || printf '%s ' "${pair#*:}"
    done
}

system_packages() {
    local packages
    packages=$(missing_packages)
    [ -n "$packages" ] || return 0
    if [ "$check" = yes ]; then
        missing "programs that the build calls, from the packages: $packages"
        return 0
    fi
    step "installing from the system's packages: $packages(about a minute)"
    have apt-get ||
        die "this system has no apt-get, so its packages are left to you" \
            "Install what these packages of Debian hold, then run this again: $packages"
    # shellcheck disable=SC2086 # a list of words
    apt_install $packages
}

# ---- Rust ---------------------------------------------------------------------------------------

# The oldest compiler that the workspace allows.
oldest_rust() {
    sed -n 's/^rust-version = "\([0-9.]*\)".*/\1/p' Cargo.toml
}

# Whether version $1 is at least version $2.
at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# Whether the compiler in use is new enough.
rust_is_new() {
    local version
    have cargo && have rustc || return 1
    version=$(rustc --version 2>/dev/null | awk '{ print $2 }') || return 1
    [ -n "$version" ] && at_least "${version%%-*}" "$(oldest_rust)"
}

wasm_libs_dir() {
    rustc --print target-libdir --target $target 2>/dev/null
}

# What tells one state of compiler and libraries from another.
rust_identity() {
    rustc -vV
    local dir
    dir=$(wasm_libs_dir)
    echo "$dir"
    ls -ln "$dir" 2>/dev/null || true
}

# Whether a library of `core` and `alloc` links for wasm with link-time optimisation, as the runtime
# does; with libraries of another compiler, or without bitcode, it does not.
wasm_links() {
    local dir result=0
    dir=$(mktemp -d)
    cat >"$dir/probe.rs" <<'EOT'
#![no_std]
extern crate alloc;
use core::alloc::{GlobalAlloc, Layout};
struct Nothing;
unsafe impl GlobalAlloc for Nothing {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }
    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}
#[global_allocator]
static ALLOCATOR: Nothing = Nothing;
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
#[no_mangle]
pub extern "C" fn probe(length: usize) -> usize {
    alloc::vec![1u8; length].iter().map(|byte| usize::from(*byte)).sum()
}
EOT
    rustc --edition 2021 --crate-type cdylib --target $target -C lto=fat -C panic=abort -O \
        -o "$dir/probe.wasm" "$dir/probe.rs" >"$dir/log" 2>&1 || result=1
    rm -rf "$dir"
    return $result
}

# Whether the runtime can be built with the compiler in use. What was found out is kept until the
# compiler or the libraries change.
rust_is_ready() {
    rust_is_new || return 1
    local now
    now=$(rust_identity)
    [ "$now" = "$(cat "$NSN_SETUP/rust" 2>/dev/null)" ] || {
        wasm_links || return 1
        remember_rust "$now"
    }
}

# Keeps $1 as the state that is known to work. What an earlier compiler built for the runtime has to
# go: its cache looks at file names only.
remember_rust() {
    [ "$check" = no ] || return 0
    mkdir -p "$NSN_SETUP"
    if [ -e "$NSN_SETUP/rust" ] && [ -n "$(ls -d "$CARGO_TARGET_DIR"/*/wbuild 2>/dev/null)" ]; then
        say "the compiler has changed: the runtime's build is removed and will be made anew"
        rm -rf "$CARGO_TARGET_DIR"/*/wbuild
    fi
    printf '%s\n' "$1" >"$NSN_SETUP/rust"
}

# Makes a toolchain of rustup's the one of all scripts.
choose_toolchain() {
    mkdir -p "$NSN_SETUP"
    echo "$1" >"$NSN_SETUP/toolchain"
    export RUSTUP_TOOLCHAIN=$1
    say "all scripts use the toolchain $1 from now on; for a build without them:"
    say "  export RUSTUP_TOOLCHAIN=$1"
}

# Through rustup: the target for the compiler in use, or a new compiler with it.
rust_by_rustup() {
    have rustup || return 1
    # A linked toolchain is not rustup's to add to.
    [ "${RUSTUP_TOOLCHAIN:-}" != $NSN_DEBIAN_TOOLCHAIN ] || return 1
    if rust_is_new; then
        step "asking rustup for the target $target (30 MB, seconds to a minute)"
        quietly "rustup target add" limited rustup target add $target || {
            say "so the target has to come from elsewhere"
            return 1
        }
        quietly "rustup component add" limited \
            rustup component add rust-src clippy rustfmt || return 1
    else
        step "asking rustup for Rust $rust_version (250 MB, a few minutes)"
        quietly "rustup toolchain install" limited rustup toolchain install \
            $rust_version --profile minimal --component clippy,rustfmt,rust-src --target $target ||
            return 1
        choose_toolchain $rust_version
    fi
}

# From Debian's packages, with the target's libraries built from the library's sources.
rust_by_debian() {
    # shellcheck disable=SC2086 # a list of words
    apt_has $debian_rust || return 1
    if [ ! -x /usr/bin/cargo ] || ! at_least "$(/usr/bin/rustc --version | awk '{ print $2 }')" \
        "$(oldest_rust)" || [ ! -d /usr/lib/rustlib/src/rust/library ] || ! have ld.lld-22; then
        step "installing Debian's Rust: $debian_rust (300 MB, about 2 minutes)"
        # shellcheck disable=SC2086 # a list of words
        apt_install $debian_rust
    fi
    if have rustup; then
        rustup toolchain link $NSN_DEBIAN_TOOLCHAIN /usr >/dev/null 2>&1 ||
            die "rustup could not link /usr as a toolchain" "Try: rustup toolchain link $NSN_DEBIAN_TOOLCHAIN /usr"
        choose_toolchain $NSN_DEBIAN_TOOLCHAIN
    fi
    hash -r
    rust_is_ready || install_wasm_libs
}

# Builds the three libraries of the target into the folder $1.
build_wasm_libs() {
    local to=$1 dir
    dir=$(mktemp -d)
    mkdir -p "$dir/src" "$to"
    printf '#![no_std]\n' >"$dir/src/lib.rs"
    printf '[package]\nname = "wasm-libs"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n' \
        >"$dir/Cargo.toml"
    # The runtime is linked with link-time optimisation, which needs the libraries' bitcode.
    # RUSTC_BOOTSTRAP: building the standard library is not a stable feature of cargo.
    if ! (cd "$dir" && CARGO_TARGET_DIR="$dir/target" RUSTFLAGS="-Cembed-bitcode=yes" \
        RUSTC_BOOTSTRAP=1 quietly "building the libraries of $target" \
        cargo build --release -Zbuild-std=core,alloc --target $target); then
        rm -rf "$dir"
        return 1
    fi
    rm -f "$to"/lib{core,alloc,compiler_builtins}-*.rlib
    cp "$dir/target/$target/release/deps"/lib{core,alloc,compiler_builtins}-*.rlib "$to/" || return 1
    rm -rf "$dir"
}

# Puts them where the compiler in use looks.
install_wasm_libs() {
    local to built
    to=$(wasm_libs_dir)
    step "building the libraries of $target with $(rustc --version) (about 20 seconds)"
    built=$(mktemp -d)
    build_wasm_libs "$built" || die "the libraries of $target could not be built" \
        "The sources of the standard library must be there: package rust-web-src, or rustup component rust-src."
    [ -w "$to" ] || need_root "writing to $to"
    as_root mkdir -p "$to"
    as_root find "$to" -name '*.rlib' -delete
    as_root cp "$built"/lib{core,alloc,compiler_builtins}-*.rlib "$to/"
    as_root chmod a+r "$to"/*.rlib
    rm -rf "$built"
    wasm_links || die "the libraries of $target are built, but do not link" \
        "Is rust-lld there? It comes with the packages rust-web-llvm and lld-22."
    [ -e "$NSN_SETUP/rust" ] || { mkdir -p "$NSN_SETUP" && : >"$NSN_SETUP/rust"; }
    remember_rust "$(rust_identity)"
}

rust() {
    rust_is_ready && return 0
    if [ "$check" = yes ]; then
        missing "a Rust compiler of at least $(oldest_rust) with the target $target"
        return 0
    fi
    { rust_by_rustup && rust_is_ready; } || rust_by_debian ||
        die "there is no Rust of at least $(oldest_rust) with the target $target, and no way to get one" \
            "Install rustup from https://rustup.rs (or use Debian 12 or later), then run this again."
}

# ---- programs written in Rust -------------------------------------------------------------------

# Installs the crate $1 in version $2; $3 says how long it takes.
cargo_install() {
    step "compiling $1 $2 (about $3 minutes on 2 cores)"
    CARGO_TARGET_DIR="$NSN_CACHE/tools" quietly "cargo install $1" \
        cargo install --locked "$1" --version "$2" ||
        die "$1 could not be installed" "Try by hand: cargo install --locked $1 --version $2"
    rm -rf "$NSN_CACHE/tools"
}

rust_programs() {
    if ! cargo nextest --version >/dev/null 2>&1; then
        if [ "$check" = yes ]; then
            missing "cargo-nextest, which runs the tests"
        else
            cargo_install cargo-nextest $nextest_version 6
        fi
    fi
    if ! cargo clippy --version >/dev/null 2>&1; then
        missing_component clippy rust-web-clippy
    fi
    if ! rustfmt_toolchain >/dev/null; then
        missing_component rustfmt rustfmt-web
    fi
    if [ "$deny" = yes ] && ! cargo deny --version >/dev/null 2>&1; then
        if [ "$check" = yes ]; then
            missing "cargo-deny"
        else
            cargo_install cargo-deny $deny_version 8
        fi
    fi
}

# Installs a part of the toolchain: $1 is rustup's name of it, $2 Debian's.
missing_component() {
    if [ "$check" = yes ]; then
        missing "$1"
        return 0
    fi
    step "installing $1 (seconds)"
    if have rustup && [ "${RUSTUP_TOOLCHAIN:-}" != $NSN_DEBIAN_TOOLCHAIN ]; then
        quietly "rustup component add" limited rustup component add "$1" ||
            die "$1 could not be installed" "Try by hand: rustup component add $1"
    else
        apt_has "$2" || die "there is no $1 for this compiler" "Install it, then run this again."
        apt_install "$2"
    fi
}

# ---- zombienet ----------------------------------------------------------------------------------

# What the lock file says, in a folder of its own; a changed lock file makes another one.
zombienet() {
    local to packages=""
    to=$(zombienet_dir)
    have node || packages="nodejs "
    have npm || packages="${packages}npm "
    have ps || packages="${packages}procps "
    if [ "$check" = yes ]; then
        [ -z "$packages" ] || missing "what zombienet runs on, from the packages: $packages"
        [ -e "$to/complete" ] || missing "zombienet"
        return 0
    fi
    if [ -n "$packages" ]; then
        have apt-get || die "zombienet needs Node.js (18 or later), npm and ps" "Install them, then run this again."
        step "installing from the system's packages: $packages(about a minute)"
        # shellcheck disable=SC2086 # a list of words
        apt_install $packages
    fi
    [ ! -e "$to/complete" ] || return 0
    step "installing zombienet into $to (230 MB, about half a minute)"
    rm -rf "$to"
    mkdir -p "$to"
    cp zombienet/package.json zombienet/package-lock.json zombienet/.npmrc "$to/"
    # Without the packages' own install scripts: none is needed, and one would compile.
    quietly "npm ci" npm --prefix "$to" ci --ignore-scripts ||
        die "zombienet could not be installed" "The output above says why; npm has to reach its registry."
    : >"$to/complete"
}

# ---- the NAT lab --------------------------------------------------------------------------------

# Debian's names of the packages whose program is not there, each once. The programs are in sbin,
# which is not on everybody's path.
natlab_packages() {
    local pair PATH="$PATH:/usr/sbin:/sbin"
    for pair in ip:iproute2 tc:iproute2 nft:nftables conntrack:conntrack turnserver:coturn \
        turnutils_uclient:coturn miniupnpd:miniupnpd upnpc:miniupnpc python3:python3; do
        have "${pair%%:*}" || echo "${pair#*:}"
    done | sort -u | tr '\n' ' '
}

# Debian starts the servers that it installs, and again at each boot. These are for the lab's own
# namespaces, so what systemd would start is masked before it comes, and what init scripts would
# start is forbidden (policy-rc.d, exit status 101). Servers that were here before are left alone.
natlab() {
    local packages name
    packages=$(natlab_packages)
    [ -n "$packages" ] || return 0
    if [ "$check" = yes ]; then
        missing "what the NAT lab runs, from the packages: $packages"
        return 0
    fi
    have apt-get ||
        die "this system has no apt-get, so its packages are left to you" \
            "Install what these packages of Debian hold, then run this again: $packages"
    step "installing from the system's packages, with no service started: $packages(about a minute)"
    need_root "installing packages"
    for name in coturn miniupnpd; do
        [[ " $packages" != *" $name "* ]] || ! have systemctl ||
            as_root systemctl mask "$name.service" >/dev/null 2>&1 ||
            die "the service $name could not be masked, so installing it would start it"
    done
    # By default miniupnpd comes with iptables; the lab's NATs are of nftables.
    # shellcheck disable=SC2086 # a list of words
    without_services apt_install ${packages/miniupnpd /miniupnpd miniupnpd-nftables }
}

# Runs a command while no package may start a service. A subshell, so that the prohibition ends with
# it however it ends; one that is there already stays.
without_services() (
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        trap 'as_root rm -f $policy' EXIT
        trap 'exit 130' INT TERM
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
        as_root chmod 755 $policy
    fi
    "$@"
)

# ---- all of it ----------------------------------------------------------------------------------

check=no
deny=no
with_zombienet=no
with_natlab=no
lacks=0

missing() {
    say "missing: $1"
    lacks=$((lacks + 1))
}

while [ $# -gt 0 ]; do
    case "$1" in
        --check) check=yes ;;
        --deny) deny=yes ;;
        --zombienet) with_zombienet=yes ;;
        --natlab) with_natlab=yes ;;
        --wasm-libs)
            [ $# -ge 2 ] || die "--wasm-libs needs a folder" "$(usage)"
            nsn_env
            step "building the libraries of $target into $2 (about 20 seconds)"
            build_wasm_libs "$2"
            exit
            ;;
        -h | --help)
            usage
            exit
            ;;
        *) die "unknown argument $1" "$(usage)" ;;
    esac
    shift
done

nsn_env
system_packages
rust
if [ "$check" = no ] || rust_is_new; then
    rust_programs
fi
[ $with_zombienet = no ] || zombienet
[ $with_natlab = no ] || natlab
if [ "$lacks" -gt 0 ]; then
    say "scripts/setup.sh installs it"
    exit 1
fi
