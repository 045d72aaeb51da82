//! The `nsn-node` binary; everything is in the library, so that tests can reach it.

fn main() -> sc_cli::Result<()> {
    nsn_node::command::run()
}
