//! Names of regions.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The longest name, in bytes.
const MAX_LEN: usize = 32;

/// A region: 1 to 32 characters of `a-z`, `0-9` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Region(String);

/// A text that names no region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a region is 1 to 32 characters of a-z, 0-9 and -")]
pub struct BadRegion;

impl Region {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Region {
    type Err = BadRegion;

    fn from_str(text: &str) -> Result<Self, BadRegion> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let good = (1..=MAX_LEN).contains(&text.len()) && text.bytes().all(allowed);
        if good { Ok(Self(text.to_owned())) } else { Err(BadRegion) }
    }
}

impl TryFrom<String> for Region {
    type Error = BadRegion;

    fn try_from(text: String) -> Result<Self, BadRegion> {
        text.parse()
    }
}

impl From<Region> for String {
    fn from(region: Region) -> Self {
        region.0
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "eu-west-1", &"x".repeat(32)] {
            assert_eq!(good.parse::<Region>().unwrap().as_str(), good);
        }
        for bad in ["", "EU", "eu west", "é", "a/b", &"x".repeat(33)] {
            assert_eq!(bad.parse::<Region>(), Err(BadRegion), "{bad}");
        }
    }
}
