//! The `nsn-node` binary; everything is in the library, so that tests can reach it.

use std::process::ExitCode;

/// Many threads allocate and free what others allocated, for months: glibc's allocator keeps pages that
/// this one gives back.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match nsn_node::command::run() {
        Ok(code) => code,
        Err(error) => {
            #[allow(
                clippy::print_stderr,
                reason = "the one line that tells a person what is wrong"
            )]
            {
                eprintln!("Error: {error}");
            }
            ExitCode::FAILURE
        }
    }
}
