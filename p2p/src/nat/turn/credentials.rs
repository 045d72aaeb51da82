//! The user name and the password of TURN servers, and the keys that come of them.

use super::message::Challenge;
use std::{fmt, io, path::Path};
use stun_rs::{
    Algorithm, AlgorithmId, HMACKey,
    attributes::stun::{Nonce, PasswordAlgorithm, PasswordAlgorithms, Realm, UserName},
};
use thiserror::Error;
use tokio::{fs::File, io::AsyncReadExt};

/// Longest file with credentials that is read, in bytes.
const MAX_FILE: u64 = 4096;

/// What a nonce begins with that says which security features a server has (RFC 8489, 9.2).
const COOKIE: &[u8] = b"obMatJos2";

/// Why there are no credentials. None of the texts holds anything of the file.
#[derive(Debug, Error)]
pub(super) enum CredentialsError {
    /// The file cannot be read.
    #[error("the file with TURN credentials cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It does not hold what it should.
    #[error(
        "the file with TURN credentials needs a user name in its first line and a password in its \
         second, both without control characters, and at most 4 KiB"
    )]
    Content,
}

/// A user name and its password. Nothing of it is ever shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    name: UserName,
    password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Credentials {
    /// Reads a file.
    pub(super) async fn read(path: &Path) -> Result<Self, CredentialsError> {
        let mut text = String::new();
        File::open(path).await?.take(MAX_FILE + 1).read_to_string(&mut text).await?;
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_FILE {
            return Err(CredentialsError::Content);
        }
        Self::parse(&text).ok_or(CredentialsError::Content)
    }

    /// The user name in the first line, the password in the second.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let (name, password) = (lines.next()?, lines.next()?);
        let fit = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
        if !fit(password) || lines.any(|line| !line.is_empty()) {
            return None;
        }
        let name = UserName::new(name).ok().filter(|name| fit(name.as_str()))?;
        // What cannot be a password would be found out only when a server asks.
        HMACKey::new_short_term(password).ok()?;
        Some(Self { name, password: password.to_owned() })
    }

    /// What requests are signed with after a server has asked for it. None if it asks for what cannot
    /// be given: an algorithm that nobody knows, a realm that is no text, or less than it says it can
    /// (RFC 8489, 9.2.5: somebody on the way has taken the better algorithm out).
    pub(super) fn answer(&self, challenge: &Challenge) -> Option<Signature> {
        let Challenge { realm, nonce, algorithms } = challenge;
        let offered = algorithms.as_ref();
        if offered.is_none() && promises_algorithms(nonce.as_str().as_bytes()) {
            return None;
        }
        let chosen = match offered {
            None => None,
            Some(offered) => {
                let best = [AlgorithmId::SHA256, AlgorithmId::MD5].into_iter().find(|wanted| {
                    offered.iter().any(|algorithm| algorithm.algorithm() == *wanted)
                })?;
                Some((offered.clone(), best))
            }
        };
        let algorithm = chosen.as_ref().map_or(AlgorithmId::MD5, |(_, algorithm)| *algorithm);
        let (name, algorithm) = (self.name.as_str(), Algorithm::from(algorithm));
        let key = HMACKey::new_long_term(name, realm.as_str(), &self.password, algorithm).ok()?;
        Some(Signature {
            name: self.name.clone(),
            realm: realm.clone(),
            nonce: nonce.clone(),
            algorithms: chosen,
            key,
        })
    }
}

/// Whether a nonce says that its server offers a choice of algorithms: the first of 24 bits behind the
/// cookie, in base64 (RFC 8489, 18.1).
fn promises_algorithms(nonce: &[u8]) -> bool {
    let first = nonce.strip_prefix(COOKIE).and_then(|features| features.first());
    first.is_some_and(|digit| matches!(digit, b'g'..=b'z' | b'0'..=b'9' | b'+' | b'/'))
}

/// What a request is signed with. Nothing secret of it is ever shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Signature {
    pub(super) name: UserName,
    pub(super) realm: Realm,
    pub(super) nonce: Nonce,
    /// All that the server offers, and which was chosen; none where it offers no choice. SHA-256
    /// protects the messages then, SHA-1 otherwise (RFC 8489, 9.2.4).
    algorithms: Option<(PasswordAlgorithms, AlgorithmId)>,
    pub(super) key: HMACKey,
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(..)")
    }
}

impl Signature {
    /// Whether SHA-256 protects the messages, and not SHA-1.
    pub(super) fn is_sha256(&self) -> bool {
        self.algorithms.is_some()
    }

    /// What a request says about the choice of an algorithm.
    pub(super) fn choice(&self) -> Option<(PasswordAlgorithms, PasswordAlgorithm)> {
        let (offered, chosen) = self.algorithms.as_ref()?;
        Some((offered.clone(), PasswordAlgorithm::new(Algorithm::from(*chosen))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(nonce: &str, algorithms: Option<&[AlgorithmId]>) -> Challenge {
        let algorithms = algorithms.map(|ids| {
            let all = ids.iter().map(|id| PasswordAlgorithm::new(Algorithm::from(*id)));
            PasswordAlgorithms::from(all.collect::<Vec<_>>())
        });
        Challenge {
            realm: Realm::new("realm").unwrap(),
            nonce: Nonce::new(nonce).unwrap(),
            algorithms,
        }
    }

    #[test]
    fn two_lines_are_a_name_and_a_password_and_nothing_of_them_is_shown() {
        let read = Credentials::parse("user\npass\n").unwrap();
        let signed = read.answer(&challenge("n", None)).unwrap();
        // RFC 8489 (9.2.2) gives this key for these three words.
        let key = hex::encode(signed.key.as_bytes());
        assert_eq!(key, "8493fbc53ba582fb4c044c456bdc40eb");
        let shown = format!("{read:?} {signed:?}");
        for secret in ["user", "pass", "8493", "132, 147"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn what_is_no_name_and_password_is_refused() {
        for bad in
            ["", "user", "user\n", "\npass", "user\npass\nmore", "us\u{7}er\npass", "u\n\u{1}"]
        {
            assert_eq!(Credentials::parse(bad), None, "{bad:?}");
        }
        assert!(Credentials::parse("user:1\r\na: b\r\n\r\n").is_some());
    }

    #[test]
    fn the_best_algorithm_that_is_offered_is_taken() {
        let credentials = Credentials::parse("user\npass").unwrap();
        let (md5, sha256) = (AlgorithmId::MD5, AlgorithmId::SHA256);
        let chosen = |offered: &[AlgorithmId]| {
            let signature = credentials.answer(&challenge("n", Some(offered)))?;
            Some((signature.choice().unwrap().1.algorithm(), signature.is_sha256()))
        };
        assert_eq!(chosen(&[md5, sha256]), Some((sha256, true)));
        assert_eq!(chosen(&[md5]), Some((md5, true)), "SHA-256 over the message all the same");
        assert_eq!(chosen(&[AlgorithmId::Unassigned(9)]), None);
        assert_eq!(chosen(&[]), None);
    }

    #[test]
    fn a_server_whose_better_algorithms_were_taken_out_on_the_way_is_not_answered() {
        let credentials = Credentials::parse("user\npass").unwrap();
        // The first bit set, and all bits but it.
        assert_eq!(credentials.answer(&challenge("obMatJos2gAAArest", None)), None);
        assert!(credentials.answer(&challenge("obMatJos2f///rest", None)).is_some());
        let both = [AlgorithmId::MD5, AlgorithmId::SHA256];
        assert!(credentials.answer(&challenge("obMatJos2gAAArest", Some(&both))).is_some());
        // Letters of more than one byte where the bits should be, and nothing at all.
        assert!(!promises_algorithms("obMatJos2\u{e4}\u{e4}".as_bytes()));
        assert!(!promises_algorithms(COOKIE));
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_or_too_long_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        assert!(matches!(Credentials::read(&path).await, Err(CredentialsError::Io(_))));
        std::fs::write(&path, format!("user\n{}", "p".repeat(4096))).unwrap();
        assert!(matches!(Credentials::read(&path).await, Err(CredentialsError::Content)));
        std::fs::write(&path, "user\npass").unwrap();
        assert_eq!(
            Credentials::read(&path).await.unwrap(),
            Credentials::parse("user\npass").unwrap()
        );
    }
}
