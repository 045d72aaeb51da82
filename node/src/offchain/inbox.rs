//! The one folder whose files may be published over JSON-RPC.
//!
//! The RPC names a file in it, never a path: no separator, no `..`, no hidden name, no symbolic
//! link, nothing but a regular file. So whoever may call the RPC still cannot make the node read and
//! publish, say, its own keystore.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

/// Longest file name that Linux file systems take, in bytes.
const MAX_NAME: usize = 255;

/// Why a file in the inbox cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is not one of a file directly in the inbox.
    #[error(
        "{0:?} is not the name of a file in the inbox: give the bare name of a file that you put \
         there, without folders"
    )]
    Name(String),
    /// There is no such file.
    #[error("there is no file {name:?} in the inbox {}: put it there first", .inbox.display())]
    Missing {
        /// The name asked for.
        name: String,
        /// Where it was looked for.
        inbox: PathBuf,
    },
    /// A link, folder, pipe or device.
    #[error(
        "{0:?} in the inbox is not a regular file (links are not followed): put the file itself there"
    )]
    NotAFile(String),
    /// The operating system refused.
    #[error("{name:?} in the inbox cannot be read: {source}")]
    Io {
        /// The name asked for.
        name: String,
        /// The refusal.
        source: io::Error,
    },
}

/// The folder.
#[derive(Clone, Debug)]
pub struct Inbox(PathBuf);

impl Inbox {
    /// Uses the folder `path`, and makes it if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn at(path: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where the file `name` is. Whoever opens it must not follow links either: it could be exchanged
    /// for one in between.
    ///
    /// # Errors
    /// See [`enum@Error`].
    pub fn find(&self, name: &str) -> Result<PathBuf, Error> {
        check_name(name)?;
        let path = self.0.join(name);
        let metadata = fs::symlink_metadata(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => {
                Error::Missing { name: name.to_owned(), inbox: self.0.clone() }
            }
            _ => Error::Io { name: name.to_owned(), source },
        })?;
        if metadata.is_file() { Ok(path) } else { Err(Error::NotAFile(name.to_owned())) }
    }
}

/// Whether `name` can only mean a file directly in a folder.
fn check_name(name: &str) -> Result<(), Error> {
    let mut components = Path::new(name).components();
    let single = matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(only)), None) if only == name
    );
    if single && name.len() <= MAX_NAME && !name.starts_with('.') && !name.contains('\0') {
        Ok(())
    } else {
        Err(Error::Name(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn inbox() -> (tempfile::TempDir, Inbox) {
        let dir = tempfile::tempdir().unwrap();
        let inbox = Inbox::at(dir.path().join("inbox")).unwrap();
        (dir, inbox)
    }

    #[test]
    fn a_plain_file_is_found() {
        let (_dir, inbox) = inbox();
        fs::write(inbox.path().join("film.mp4"), b"x").unwrap();
        inbox.find("film.mp4").unwrap();
    }

    #[test]
    fn paths_and_hidden_names_are_refused() {
        let (dir, inbox) = inbox();
        fs::write(dir.path().join("secret"), b"x").unwrap();
        let absolute = dir.path().join("secret");
        for name in
            ["../secret", "./a", "a/b", "/etc/passwd", "", ".", "..", ".hidden", "a/", "a\0b"]
        {
            assert!(matches!(inbox.find(name), Err(Error::Name(_))), "{name:?}");
        }
        assert!(matches!(inbox.find(absolute.to_str().unwrap()), Err(Error::Name(_))));
    }

    #[test]
    fn links_folders_and_pipes_are_refused() {
        let (dir, inbox) = inbox();
        fs::write(dir.path().join("secret"), b"x").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), inbox.path().join("link")).unwrap();
        fs::create_dir(inbox.path().join("folder")).unwrap();
        let pipe = std::process::Command::new("mkfifo").arg(inbox.path().join("pipe")).status();
        assert!(pipe.unwrap().success());
        for name in ["link", "folder", "pipe"] {
            assert!(matches!(inbox.find(name), Err(Error::NotAFile(_))), "{name}");
        }
    }

    #[test]
    fn a_missing_file_is_named_with_its_inbox() {
        let (_dir, inbox) = inbox();
        let text = inbox.find("nothing.mp4").unwrap_err().to_string();
        assert!(text.contains("nothing.mp4") && text.contains("inbox"), "{text}");
    }

    proptest! {
        #[test]
        fn no_accepted_name_leaves_the_folder(name in "\\PC{0,40}") {
            if check_name(&name).is_ok() {
                let joined = Path::new("/inbox").join(&name);
                prop_assert_eq!(joined.parent(), Some(Path::new("/inbox")));
            }
        }
    }
}
