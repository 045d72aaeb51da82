//! Small files that keep state over a restart, as JSON that a person can read.
//!
//! A file is written under a temporary name, synced, and renamed, so that a crash leaves the old one
//! or the new one. One that cannot be read is put aside and told of once: the overlay then begins
//! with nothing, as it would on a new machine.
//!
//! These functions block; call them where that is allowed.

use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

/// Largest file that is read, in bytes.
const MAX_LEN: u64 = 16 << 20;

/// What the file holds; nothing if there is none, or none that makes sense.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let parsed = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => Err(error),
        Ok(meta) if meta.len() > MAX_LEN => Err(io::ErrorKind::FileTooLarge.into()),
        Ok(_) => fs::read(path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?)),
    };
    parsed
        .inspect_err(|error| {
            let aside = path.with_extension("bad");
            let kept = match fs::rename(path, &aside) {
                Ok(()) => format!("it is kept as {}", aside.display()),
                Err(error) => format!("it could not be put aside: {error}"),
            };
            tracing::warn!(%error, "{} cannot be read and is begun anew; {kept}", path.display());
        })
        .ok()
}

/// Writes `value` to the file, whose folder is made if it is not there.
pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec_pretty(value)?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    // Makes the rename last.
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/list.json");
        assert_eq!(read::<Vec<u32>>(&path), None);
        for list in [vec![1, 2, 3], vec![]] {
            write(&path, &list).unwrap();
            assert_eq!(read::<Vec<u32>>(&path), Some(list));
        }
    }

    #[test]
    fn what_a_crash_left_half_written_is_not_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.json");
        write(&path, &[1]).unwrap();
        fs::write(path.with_extension("new"), "[1, 2").unwrap();
        assert_eq!(read::<Vec<u32>>(&path), Some(vec![1]));
        write(&path, &[3]).unwrap();
        assert_eq!(read::<Vec<u32>>(&path), Some(vec![3]));
    }

    #[test]
    fn a_file_that_is_too_long_is_put_aside_unread() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.json");
        File::create(&path).unwrap().set_len(MAX_LEN + 1).unwrap();
        assert_eq!(read::<Vec<u32>>(&path), None);
        assert!(!path.exists() && path.with_extension("bad").exists());
    }

    proptest! {
        #[test]
        fn no_content_is_a_panic(bytes: Vec<u8>) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("list.json");
            fs::write(&path, &bytes).unwrap();
            let parsed = read::<Vec<u32>>(&path);
            prop_assert_eq!(path.exists(), parsed.is_some());
        }
    }
}
