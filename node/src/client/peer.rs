//! `nsn-node peer bind-proof`: the overlay key's consent to be answered for by an account.

use std::{fs, path::PathBuf};

use clap::{Args, Subcommand};
use sp_core::{Pair as _, crypto::Ss58Codec, ed25519};

use super::{Error, print_line};

/// What to do about peer bindings.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Sign, with a node's network key, that ACCOUNT may answer for it; the account then submits
    /// `reputation.bindPeer(key, proof)`.
    BindProof(BindProof),
}

/// `peer bind-proof`.
#[derive(Debug, Args)]
pub struct BindProof {
    /// The account, SS58.
    #[arg(long, value_name = "SS58")]
    account: String,
    /// The node's network key: a file of 32 bytes or 64 hexadecimal digits
    /// (`BASE/chains/CHAIN/network/secret_ed25519`).
    #[arg(long, value_name = "FILE")]
    node_key_file: PathBuf,
    /// Genesis hash of the chain, hexadecimal (`chain_getBlockHash(0)`).
    #[arg(long, value_name = "HASH")]
    genesis: String,
    /// How many bindings the account has made before (`ReputationApi_bind_nonce`).
    #[arg(long, default_value_t = 0)]
    nonce: u32,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(crate) fn run(&self) -> Result<(), Error> {
        match self {
            Self::BindProof(command) => command.run(),
        }
    }
}

impl BindProof {
    fn run(&self) -> Result<(), Error> {
        let account = nsn_runtime::AccountId::from_ss58check(&self.account).map_err(|error| {
            Error::Argument(format!("--account {:?} is no SS58 address: {error:?}", self.account))
        })?;
        let genesis = hash(&self.genesis)?;
        let pair = ed25519::Pair::from_seed(&self.secret()?);
        let key = pair.public().0;
        let payload =
            pallet_reputation_runtime_api::bind_payload(&genesis, &account, &key, self.nonce);
        let (key, proof) = (hex::encode(key), hex::encode(pair.sign(&payload).0));
        if self.json {
            print_line(serde_json::json!({ "key": key, "proof": proof, "nonce": self.nonce }))?;
        } else {
            print_line(format_args!("key    0x{key}"))?;
            print_line(format_args!("proof  0x{proof}"))?;
            print_line(
                "submit reputation.bindPeer(key, proof) from the account; nothing secret is in them",
            )?;
        }
        Ok(())
    }

    fn secret(&self) -> Result<[u8; 32], Error> {
        let path = self.node_key_file.display().to_string();
        let bytes = fs::read(&self.node_key_file)
            .map_err(|source| Error::File { path: path.clone(), source })?;
        let decoded = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| hex::decode(text.trim()).ok())
            .unwrap_or(bytes);
        decoded.try_into().map_err(|_| {
            Error::Argument(format!(
                "{path} is no network key: it must hold 32 bytes, or 64 hexadecimal digits"
            ))
        })
    }
}

fn hash(text: &str) -> Result<[u8; 32], Error> {
    hex::decode(text.strip_prefix("0x").unwrap_or(text))
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| {
            Error::Argument(format!(
                "--genesis {text:?} is no hash: it must be 64 hexadecimal digits"
            ))
        })
}
