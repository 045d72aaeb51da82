//! The `nsn-node` binary; everything is in the library, so that tests can reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    match nsn_node::command::run() {
        Ok(()) => ExitCode::SUCCESS,
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
