# shellcheck shell=bash
# What the scripts share: messages, and the environment of a build. To be sourced, not run.

# Nested scripts count on from the start of the outermost one.
: "${NSN_STARTED:=$(date +%s)}"
export NSN_STARTED

# Everything that is made on the way and can be made again; never in the checkout.
NSN_CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/nsn-node"

# What setup.sh found out and keeps.
NSN_SETUP="$NSN_CACHE/setup"

# The name under which Debian's Rust is known to rustup.
NSN_DEBIAN_TOOLCHAIN=nsn-debian

# Messages go to standard error, so that standard output stays for results.
say() {
    printf '%s\n' "$*" >&2
}

# Begins a long piece of work: what it is, and how long it may take. Shows the time since the start.
step() {
    local passed=$(($(date +%s) - NSN_STARTED))
    printf '[%02d:%02d] %s\n' $((passed / 60)) $((passed % 60)) "$*" >&2
}

# Ends the script: what went wrong, and what to do about it.
die() {
    printf 'error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '%s\n' "$2" >&2
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# The environment of every build: where it goes, and whose compiler it is. What the caller has set
# stands; then what setup.sh chose earlier, since another compiler would build everything anew.
nsn_env() {
    export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$NSN_CACHE/target}"
    # Where rustup and `cargo install` put programs; a fresh shell may not know it yet.
    local bin="${CARGO_HOME:-$HOME/.cargo}/bin"
    case ":$PATH:" in
        *":$bin:"*) ;;
        *) export PATH="$PATH:$bin" ;;
    esac
    [ -z "${RUSTUP_TOOLCHAIN:-}" ] && have rustup || return 0
    local chosen toolchains="${RUSTUP_HOME:-$HOME/.rustup}/toolchains"
    chosen=$(cat "$NSN_SETUP/toolchain" 2>/dev/null) || chosen=$NSN_DEBIAN_TOOLCHAIN
    # rustup adds the machine to the names of toolchains that it installed itself.
    if [ -n "$chosen" ] && compgen -G "$toolchains/$chosen*" >/dev/null; then
        export RUSTUP_TOOLCHAIN=$chosen
    fi
}

# The rustup toolchain whose rustfmt is to be used: that of the build, or another one where it has
# none. Prints an empty line for "as it is"; fails if there is no rustfmt at all.
rustfmt_toolchain() {
    if cargo fmt --version >/dev/null 2>&1; then
        echo
        return
    fi
    local toolchain
    have rustup || return 1
    for toolchain in stable $(rustup toolchain list 2>/dev/null | awk '{ print $1 }'); do
        if RUSTUP_TOOLCHAIN=$toolchain cargo fmt --version >/dev/null 2>&1; then
            echo "$toolchain"
            return
        fi
    done
    return 1
}

# `cargo fmt` with whatever rustfmt there is.
cargo_fmt() {
    local toolchain
    toolchain=$(rustfmt_toolchain) || die "there is no rustfmt" "scripts/setup.sh installs it."
    if [ -n "$toolchain" ]; then
        RUSTUP_TOOLCHAIN=$toolchain cargo fmt "$@"
    else
        cargo fmt "$@"
    fi
}

# Where setup.sh puts the zombienet that the lock file names. From the root of the checkout.
zombienet_dir() {
    echo "$NSN_CACHE/zombienet/$(cat zombienet/package.json zombienet/package-lock.json | cksum | cut -d' ' -f1)"
}
