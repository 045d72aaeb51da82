//! What is known of subjects, on disk: so that a validator that is restarted can go on auditing one
//! that the overlay has cut off, of which it will hear nothing more.
//!
//! One file, `audit/known` under the node's data folder: a version byte and SCALE. It is written
//! anew after each window (under a temporary name, synced, renamed), at most 4 MiB. Only bound
//! announcers are in it. A file that cannot be read is no loss beyond what it held.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
};

use codec::{Decode, DecodeAll as _, Encode};
use nsn_p2p::OverlayKey;
use nsn_relay::{BlobId, ContentId};

use super::catalogue::Site;

const VERSION: u8 = 1;

/// Longest file that is read: 8,192 entries, of 32 bytes for the key, up to 16 contents of 32 bytes,
/// and about 100 bytes of addresses.
const MAX_LEN: u64 = 8 * 1024 * 1024;

/// What is known of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Who.
    pub(super) key: OverlayKey,
    /// What it announced, the newest last.
    pub(super) contents: Vec<ContentId>,
    /// Where it serves.
    pub(super) site: Option<Site>,
}

/// [`Known`] in the file.
#[derive(Encode, Decode)]
struct Entry {
    key: OverlayKey,
    contents: Vec<BlobId>,
    site: Option<(Vec<String>, bool, u64)>,
}

impl From<Known> for Entry {
    fn from(known: Known) -> Self {
        let Known { key, contents, site } = known;
        let site = site.map(|site| {
            let addrs = site.addrs.iter().map(SocketAddr::to_string).collect();
            (addrs, site.super_node, site.expires_ms)
        });
        Self { key, contents: contents.into_iter().map(BlobId::from).collect(), site }
    }
}

impl From<Entry> for Known {
    fn from(entry: Entry) -> Self {
        let site = entry.site.map(|(addrs, super_node, expires_ms)| Site {
            addrs: addrs.iter().filter_map(|addr| addr.parse().ok()).collect(),
            super_node,
            expires_ms,
        });
        let contents = entry.contents.into_iter().map(ContentId).collect();
        Self { key: entry.key, contents, site }
    }
}

/// Where it is kept.
#[derive(Clone, Debug)]
pub(super) struct Memory(PathBuf);

impl Memory {
    /// Kept in this file, whose folder is made when it is first written.
    pub(super) const fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// What was known; nothing if there is no file, or none that can be read.
    pub(super) fn load(&self) -> Vec<Known> {
        match self.read() {
            Ok(known) => known,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(
                    target: "nsn::audit",
                    "what was known of those to audit is lost: {}: {error}", self.0.display()
                );
                Vec::new()
            }
        }
    }

    fn read(&self) -> io::Result<Vec<Known>> {
        let mut bytes = Vec::new();
        fs::File::open(&self.0)?.take(MAX_LEN).read_to_end(&mut bytes)?;
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "not what was written");
        let (version, mut entries) = bytes.split_first().ok_or_else(malformed)?;
        if *version != VERSION {
            return Err(malformed());
        }
        let entries = Vec::<Entry>::decode_all(&mut entries).map_err(|_| malformed())?;
        Ok(entries.into_iter().map(Known::from).collect())
    }

    /// Keeps `known` instead of what was kept before. Writes to the disk.
    ///
    /// # Errors
    /// When the file cannot be written; the old one is then still there.
    pub(super) fn save(&self, known: Vec<Known>) -> io::Result<()> {
        if let Some(folder) = self.0.parent() {
            fs::create_dir_all(folder)?;
        }
        let entries: Vec<Entry> = known.into_iter().map(Entry::from).collect();
        let temporary = self.0.with_extension("new");
        let mut file = fs::File::create(&temporary)?;
        file.write_all(&(VERSION, entries).encode())?;
        file.sync_all()?;
        fs::rename(&temporary, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_known() -> impl Strategy<Value = Known> {
        let addrs = prop::collection::vec(any::<([u8; 16], u16)>(), 0..4).prop_map(|addrs| {
            addrs.into_iter().map(|(ip, port)| SocketAddr::from((ip, port))).collect()
        });
        let site = (addrs, any::<bool>(), any::<u64>())
            .prop_map(|(addrs, super_node, expires_ms)| Site { addrs, super_node, expires_ms });
        let contents = prop::collection::vec(any::<[u8; 32]>(), 0..5)
            .prop_map(|ids| ids.into_iter().map(|id| ContentId(BlobId(id))).collect());
        (any::<[u8; 32]>(), contents, prop::option::of(site))
            .prop_map(|(key, contents, site)| Known { key, contents, site })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn what_is_kept_is_found_again(known in prop::collection::vec(any_known(), 0..20)) {
            let dir = tempfile::tempdir().unwrap();
            let memory = Memory::at(dir.path().join("audit/known"));
            prop_assert_eq!(memory.load(), []);
            memory.save(vec![]).unwrap();
            memory.save(known.clone()).unwrap();
            prop_assert_eq!(memory.load(), known);
        }

        #[test]
        fn any_file_is_survived(bytes: Vec<u8>, version: bool) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("known");
            fs::write(&path, if version { [&[VERSION][..], &bytes].concat() } else { bytes }).unwrap();
            let _ = Memory::at(path).load();
        }
    }
}
