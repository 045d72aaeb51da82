//! Settings of the video network: command line over `--nsn-config FILE.toml` over defaults.

use std::{
    fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use sc_service::ChainType;
use serde::{Deserialize, Serialize};

use crate::cli::NsnArgs;

/// What happens to the node when a service of the video network fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ServiceFailure {
    /// The chain goes on; the service is started again with growing pauses.
    #[default]
    Degrade,
    /// The node ends.
    Exit,
}

/// All settings, as `--nsn-config` takes them and `nsn-node config` prints them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Keep published content for good and serve it. Default: false.
    pub super_node: bool,
    /// Cache content and serve it to viewers. Default: false.
    pub relay: bool,
    /// Stay out of the overlay. Default: false.
    pub no_overlay: bool,
    /// The region served, 1 to 32 of `a-z0-9-`. Default: none; a relay then finds out which one is
    /// nearest (`shards.region`).
    pub region: Option<String>,
    /// When a service fails. Default: degrade.
    pub service_failure: ServiceFailure,
    /// Threads of the services' own runtime. Default: half of the cores, at least 2, so that the
    /// chain always finds one free.
    pub service_threads: usize,
    /// Longest time that the services may take to drain at shutdown. Default: 20 s; the process as
    /// a whole has 60 s.
    #[serde(with = "humantime_serde")]
    pub drain_limit: Duration,
    /// How often one of the contents that this node keeps is announced again, in turn, so that those
    /// who came later hear of them. Default: 10 min; on development and local chains 10 s at most.
    #[serde(with = "humantime_serde")]
    pub announce_every: Duration,
    /// Audits, which a validator makes.
    pub audit: crate::offchain::audit::Config,
    /// Finding relays by region.
    pub regions: crate::offchain::region::Config,
    /// The overlay.
    pub overlay: nsn_p2p::Config,
    /// Origin, relay and shard service.
    pub shards: nsn_relay::Config,
}

impl Default for Settings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            super_node: false,
            relay: false,
            no_overlay: false,
            region: None,
            service_failure: ServiceFailure::default(),
            service_threads: (cores / 2).max(2),
            drain_limit: Duration::from_secs(20),
            announce_every: Duration::from_secs(600),
            audit: crate::offchain::audit::Config::default(),
            regions: crate::offchain::region::Config::default(),
            overlay: nsn_p2p::Config::default(),
            shards: nsn_relay::Config::default(),
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file of `--nsn-config` cannot be read.
    #[error("--nsn-config {}: {source}", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error(
        "--nsn-config {}: {}. `nsn-node config` prints all keys with their values",
        .path.display(),
        .source.to_string().trim_end().replace('\n', " ")
    )]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// Two settings contradict each other, or a value is out of range.
    #[error("{0}")]
    Invalid(String),
    /// Cannot be written as TOML or JSON.
    #[error("the settings cannot be printed: {0}")]
    Print(String),
}

/// The longest time between two announcements on chains that are for tests: less than half a window
/// of audits there.
const TEST_ANNOUNCE_EVERY: Duration = Duration::from_secs(10);

/// A service that is to panic once, for a test of the supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which service.
    pub service: String,
    /// How long after its start.
    pub after: Duration,
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Effective {
    /// From the command line, the file and the defaults.
    pub settings: Settings,
    /// Only from the command line.
    pub fault: Option<Fault>,
    /// Whether the shard service denies what it holds; only from the command line.
    pub withhold: bool,
}

impl Effective {
    /// Puts the command line over the file over the defaults, and checks the result.
    ///
    /// # Errors
    /// See [`enum@Error`]; each is one line that says what to change.
    pub fn resolve(args: &NsnArgs) -> Result<Self, Error> {
        let mut settings = match &args.nsn_config {
            None => Settings::default(),
            Some(path) => {
                let text = fs::read_to_string(path)
                    .map_err(|source| Error::Read { path: path.clone(), source })?;
                let mut settings: Settings = toml::from_str(&text).map_err(|source| {
                    Error::Parse { path: path.clone(), source: Box::new(source) }
                })?;
                settings.find_files_beside(path);
                settings
            }
        };
        settings.super_node |= args.super_node;
        settings.relay |= args.relay;
        settings.no_overlay |= args.no_overlay;
        replace(&mut settings.overlay.listen, &args.overlay_listen_addr);
        replace(&mut settings.overlay.public_addrs, &args.overlay_public_addr);
        replace(&mut settings.overlay.bootstrap.bootnodes, &args.overlay_bootnodes);
        settings.shards.server.listen_addr =
            args.shard_listen_addr.unwrap_or(settings.shards.server.listen_addr);
        settings.shards.cache.capacity =
            args.relay_cache_size.unwrap_or(settings.shards.cache.capacity);
        settings.region = args.region.clone().or(settings.region);
        settings.service_failure = args.service_failure.unwrap_or(settings.service_failure);
        settings.check()?;
        Ok(Self { settings, fault: args.test_panic.clone(), withhold: args.test_withhold })
    }

    /// Applies what depends on the chain, and checks it. On development and local chains, where all
    /// nodes may share one machine, any address counts as reachable and one source may connect as
    /// often as it likes, windows of audits are short, and so is the time after which content is
    /// announced again; on development chains nodes of one network find each other by mDNS, if
    /// `mdns` allows it.
    ///
    /// # Errors
    /// When a setting makes no sense on that chain, or a test hook is asked for on one that is not
    /// for tests.
    pub fn for_chain(mut self, kind: ChainType, mdns: bool) -> Result<Self, Error> {
        let for_tests = matches!(kind, ChainType::Development | ChainType::Local);
        if for_tests {
            self.settings.overlay.address_policy = nsn_p2p::AddressPolicy::Any;
            self.settings.shards.server.connections_per_second_per_source = 0;
            self.settings.shards.server.connections_per_source = 0;
            self.settings.announce_every = self.settings.announce_every.min(TEST_ANNOUNCE_EVERY);
        }
        self.settings.overlay.bootstrap.mdns |= kind == ChainType::Development && mdns;
        let hooks = [("--test-panic", self.fault.is_some()), ("--test-withhold", self.withhold)];
        if let Some((flag, _)) = hooks.into_iter().find(|(_, used)| *used && !for_tests) {
            return Err(Error::Invalid(format!(
                "{flag} works on development and local chains only"
            )));
        }
        let overlay = self.settings.overlay.validate();
        overlay.map_err(|error| Error::Invalid(format!("[overlay] {error}")))?;
        Ok(self)
    }

    /// The settings as TOML.
    ///
    /// # Errors
    /// Never for settings that were resolved.
    pub fn to_toml(&self) -> Result<String, Error> {
        toml::to_string_pretty(&self.settings).map_err(|error| Error::Print(error.to_string()))
    }

    /// The settings as JSON.
    ///
    /// # Errors
    /// Never for settings that were resolved.
    pub fn to_json(&self) -> Result<String, Error> {
        serde_json::to_string(&self.settings).map_err(|error| Error::Print(error.to_string()))
    }
}

impl Settings {
    /// Files that the settings name without a root lie beside the file of the settings, wherever the
    /// node is started.
    fn find_files_beside(&mut self, file: &Path) {
        if let Some((folder, credentials)) =
            file.parent().zip(self.overlay.nat.turn.credentials.as_mut())
        {
            // Whatever has a root replaces the folder.
            *credentials = folder.join(&*credentials);
        }
    }

    fn check(&self) -> Result<(), Error> {
        let invalid = |text: String| Err(Error::Invalid(text));
        if self.no_overlay && (self.super_node || self.relay) {
            return invalid(
                "no_overlay contradicts super_node and relay: without the overlay there is no \
                 directory of shards; drop one of them"
                    .into(),
            );
        }
        if let Some(region) = &self.region {
            parse_region(region).map_err(Error::Invalid)?;
        }
        if self.service_threads == 0 {
            return invalid("service_threads must be at least 1".into());
        }
        if self.announce_every < Duration::from_secs(1) {
            return invalid("announce_every must be at least 1s".into());
        }
        self.audit.validate().map_err(|error| Error::Invalid(format!("[audit] {error}")))?;
        self.regions.validate().map_err(|error| Error::Invalid(format!("[regions] {error}")))?;
        self.shards.validate().map_err(|error| Error::Invalid(format!("[shards] {error}")))
    }
}

/// What the command line says replaces what the file says, as a whole.
fn replace<T: Clone>(setting: &mut Vec<T>, arguments: &[T]) {
    if !arguments.is_empty() {
        *setting = arguments.to_vec();
    }
}

/// Reads a number of bytes: `1048576`, `512MiB`, `10GiB`, `1TB`.
///
/// # Errors
/// A sentence that says what is taken.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "{text:?} is no size: give bytes, or a number with KB, MB, GB, TB, KiB, MiB, GiB or TiB"
        )
    };
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(wrong)?;
    let number = u64::from_str(number).map_err(|_| wrong())?;
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

/// Reads the name of a region.
///
/// # Errors
/// A sentence that says what is taken.
pub fn parse_region(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=32).contains(&text.len()) && text.chars().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no region: it must be 1 to 32 of a-z, 0-9 and the hyphen"))
    }
}

/// Reads `SERVICE=SECONDS`.
///
/// # Errors
/// A sentence that says what is taken.
pub fn parse_fault(text: &str) -> Result<Fault, String> {
    let wrong = || format!("{text:?} is not SERVICE=SECONDS, where SERVICE is overlay or relay");
    let (service, seconds) = text.split_once('=').ok_or_else(wrong)?;
    if !["overlay", "relay"].contains(&service) {
        return Err(wrong());
    }
    let seconds = u64::from_str(seconds).map_err(|_| wrong())?;
    Ok(Fault { service: service.to_owned(), after: Duration::from_secs(seconds) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_file(text: &str, args: NsnArgs) -> Result<Effective, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nsn.toml");
        fs::write(&path, text).unwrap();
        Effective::resolve(&NsnArgs { nsn_config: Some(path), ..args })
    }

    #[test]
    fn command_line_over_file_over_defaults() {
        let file =
            "relay = true\nregion = \"eu-west\"\n[shards.server]\nlisten_addr = \"127.0.0.1:1\"\n";
        let effective = with_file(
            file,
            NsnArgs { region: Some("asia".into()), super_node: true, ..Default::default() },
        )
        .unwrap();
        let settings = effective.settings;
        assert!(settings.relay && settings.super_node);
        assert_eq!(settings.region.as_deref(), Some("asia"));
        assert_eq!(settings.shards.server.listen_addr.to_string(), "127.0.0.1:1");
        assert_eq!(settings.drain_limit, Duration::from_secs(20));
    }

    #[test]
    fn what_config_prints_is_what_the_file_takes() {
        let effective =
            Effective::resolve(&NsnArgs { region: Some("eu".into()), ..Default::default() })
                .unwrap();
        let again = with_file(&effective.to_toml().unwrap(), NsnArgs::default()).unwrap();
        assert_eq!(again.to_json().unwrap(), effective.to_json().unwrap());
    }

    #[test]
    fn a_bad_key_is_one_line_that_names_it() {
        let text = with_file("relai = true\n", NsnArgs::default()).unwrap_err().to_string();
        assert!(text.contains("relai") && text.contains("nsn-node config"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn turn_credentials_lie_beside_the_file_unless_they_have_a_root() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nsn.toml");
        let secret = dir.path().join("secret");
        fs::write(&secret, "name of a user\npassword of a user\n").unwrap();
        let written = |credentials: &str| {
            let servers = "[\"turn:turn.example?transport=tcp\"]";
            let text =
                format!("[overlay.nat.turn]\nservers = {servers}\ncredentials = {credentials:?}\n");
            fs::write(&path, text).unwrap();
            let args = NsnArgs { nsn_config: Some(path.clone()), ..NsnArgs::default() };
            Effective::resolve(&args).unwrap()
        };
        for named in ["secret", secret.to_str().unwrap()] {
            let effective = written(named);
            let turn = &effective.settings.overlay.nat.turn;
            assert_eq!(turn.credentials.as_ref(), Some(&secret), "{named}");
            // The place is printed, and nothing of what is in it.
            for printed in [effective.to_toml().unwrap(), effective.to_json().unwrap()] {
                assert!(printed.contains("turn:turn.example:3478?transport=tcp"), "{printed}");
                assert!(printed.contains(secret.to_str().unwrap()), "{printed}");
                assert!(!printed.contains("of a user"), "{printed}");
            }
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let error = with_file("no_overlay = true\nrelay = true\n", NsnArgs::default()).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)));
        with_file("region = \"Europe!\"\n", NsnArgs::default()).unwrap_err();
        with_file("service_threads = 0\n", NsnArgs::default()).unwrap_err();
        with_file("announce_every = \"1ms\"\n", NsnArgs::default()).unwrap_err();
        with_file("[audit]\nprobes = 16\n", NsnArgs::default()).unwrap_err();
    }

    #[test]
    fn private_public_addresses_are_for_test_chains_only() {
        let args = NsnArgs {
            overlay_public_addr: vec!["/ip4/10.0.0.1/tcp/9000".parse().unwrap()],
            ..Default::default()
        };
        let resolved = || Effective::resolve(&args).unwrap();
        let local = resolved().for_chain(ChainType::Local, true).unwrap();
        assert!(!local.settings.overlay.bootstrap.mdns);
        let error = resolved().for_chain(ChainType::Live, true).unwrap_err().to_string();
        assert!(error.contains("10.0.0.1"), "{error}");
        let dev = resolved().for_chain(ChainType::Development, true).unwrap();
        assert!(dev.settings.overlay.bootstrap.mdns);
        let quiet = resolved().for_chain(ChainType::Development, false).unwrap();
        assert!(!quiet.settings.overlay.bootstrap.mdns);
    }

    #[test]
    fn test_hooks_are_for_test_chains_only() {
        let fault = parse_fault("relay=1").unwrap();
        let panics = NsnArgs { test_panic: Some(fault), ..Default::default() };
        let withholds = NsnArgs { test_withhold: true, ..Default::default() };
        for (flag, args) in [("--test-panic", panics), ("--test-withhold", withholds)] {
            let resolved = || Effective::resolve(&args).unwrap();
            let error = resolved().for_chain(ChainType::Live, true).unwrap_err().to_string();
            assert!(error.starts_with(flag), "{error}");
            for kind in [ChainType::Development, ChainType::Local] {
                let effective = resolved().for_chain(kind, true).unwrap();
                assert_eq!(
                    (effective.withhold, effective.fault.is_some()),
                    match flag {
                        "--test-panic" => (false, true),
                        _ => (true, false),
                    }
                );
            }
        }
        assert!(!Effective::resolve(&NsnArgs::default()).unwrap().withhold);
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("10GiB"), Ok(10 << 30));
        assert_eq!(parse_size("5 MB"), Ok(5_000_000));
        assert_eq!(parse_size("7"), Ok(7));
        for bad in ["", "GiB", "-1", "1.5GiB", "99999999999TiB", "1 parsec"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,40}") {
            let _ = parse_size(&text);
            let _ = parse_fault(&text);
            if let Ok(region) = parse_region(&text) {
                prop_assert!(region.len() <= 32 && !region.is_empty());
            }
        }
    }
}
