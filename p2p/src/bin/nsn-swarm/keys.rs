//! Keys of light peers: the same seed makes the same peers, so a benchmark knows beforehand who comes.

/// The secret key of one light peer. `role` says what it is there for.
pub(crate) fn secret(seed: u64, role: &str, index: u32) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("nsn-swarm light peer 1");
    hasher.update(&seed.to_be_bytes());
    hasher.update(&index.to_be_bytes());
    hasher.update(role.as_bytes());
    hasher.finalize().into()
}
