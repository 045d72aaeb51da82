//! The README's way to a chain of one's own, as it is written there.

use std::{path::Path, process::Command};

use jsonrpsee::rpc_params;

use crate::{
    harness::{NODE, Node, Setup},
    main_job::chain_addrs,
};

/// The commands of a section of the README: what stands in its blocks of `bash`.
fn commands(section: &str) -> String {
    let readme = include_str!("../../../README.md");
    let (_, section) = readme.split_once(&format!("\n## {section}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let blocks = section.split("```bash\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap()).collect()
}

/// Runs `script` in `dir`, where `nsn-node` is the binary under test.
fn bash(script: &str, dir: &Path) {
    let programs = Path::new(NODE).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let out = Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(dir)
        .env("PATH", path)
        .output()
        .unwrap();
    assert!(out.status.success(), "{script}\n{}", String::from_utf8_lossy(&out.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_leads_to_a_chain_of_ones_own_that_finalises() {
    let dir = tempfile::tempdir().unwrap();
    let made = commands("A chain of one's own");
    assert_eq!(made.matches("nsn-node key insert").count(), 3, "the section was found:\n{made}");
    let at = dir.path().to_owned();
    tokio::task::spawn_blocking(move || bash(&made, &at)).await.unwrap();

    let chain = dir.path().join("my-chain-raw.json");
    let chain = chain.to_str().unwrap();
    let setup = |name: &str| Setup::of_chain(chain, &dir.path().join(name), &["--validator"]);
    let one = Node::start(&setup("one"));
    let mut two = setup("two");
    for addr in chain_addrs(&one).await {
        two = two.with(&["--bootnodes", &addr]);
    }
    let two = Node::start(&two);

    // Both keys of each sign: two of two validators have to vote for a block to be final.
    let genesis = one.call("chain_getBlockHash", rpc_params![0]).await;
    for node in [&one, &two] {
        node.call_until("chain_getFinalizedHead", rpc_params![], |head| *head != genesis).await;
    }
    let name = one.call("system_chain", rpc_params![]).await;
    assert_eq!(name, "My chain");
}
