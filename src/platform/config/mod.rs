//! Configuration: defaults, then one strict TOML file, then `ACTCHAIN_…` from the environment. The only reader of
//! the environment; unknown keys are refused by name.

mod sections;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

pub use self::sections::{
    Agents, Audit, Delegations, Dpop, Keys, Ledger, Limits, Log, LogFormat, Span, Status, Switch, Tokens,
    Vault,
};
use super::fault::{During, Fault};

/// Everything an operator can set. Durations are seconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Our issuer identifier; `http://` + `listen` where absent. Its path is where the endpoints live.
    pub issuer: Option<String>,
    /// Where the embedded cluster and the master key live.
    pub data_dir: PathBuf,
    /// An external database; absent means the embedded one.
    pub database_url: Option<SecretString>,
    /// Where to find PostgreSQL's programs, if not in the usual places.
    pub postgres_bin_dir: Option<PathBuf>,
    /// 32 bytes in base64url.
    pub master_key: Option<SecretString>,
    /// A file that holds them.
    pub master_key_file: Option<PathBuf>,
    /// A file that holds the master key before, which only opens.
    pub previous_master_key_file: Option<PathBuf>,
    /// HTTP threads; 0 means one for each core.
    pub workers: usize,
    /// Connections to the database for reading; the ledger has one of its own besides.
    pub database_connections: u32,
    /// Issued tokens.
    pub tokens: Tokens,
    /// Proof of possession.
    pub dpop: Dpop,
    /// Signing keys.
    pub keys: Keys,
    /// Delegations.
    pub delegations: Delegations,
    /// Agents that are made for one delegation.
    pub agents: Agents,
    /// Status lists.
    pub status: Status,
    /// The vault.
    pub vault: Vault,
    /// The audit log.
    pub audit: Audit,
    /// Limits on what strangers and clients may send.
    pub limits: Limits,
    /// Group commit.
    pub ledger: Ledger,
    /// Logs.
    pub log: Log,
    /// Where the environment says that programs are.
    #[serde(skip)]
    pub path: Option<OsString>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            issuer: None,
            data_dir: PathBuf::from(".actchain"),
            database_url: None,
            postgres_bin_dir: None,
            master_key: None,
            master_key_file: None,
            previous_master_key_file: None,
            workers: 0,
            database_connections: 16,
            tokens: Tokens::default(),
            dpop: Dpop::default(),
            keys: Keys::default(),
            delegations: Delegations::default(),
            agents: Agents::default(),
            status: Status::default(),
            vault: Vault::default(),
            audit: Audit::default(),
            limits: Limits::default(),
            ledger: Ledger::default(),
            log: Log::default(),
            path: None,
        }
    }
}

/// Deeper chains would not be read back: JSON is read to a bounded depth.
const MOST_ACTORS: u32 = 24;
/// Names in the environment that are not keys of the file.
const NOT_KEYS: [&str; 1] = ["ACTCHAIN_CONFIG"];
/// Texts even where they look like numbers; a complaint about their type would show them.
const TEXTS: [&str; 2] = ["master_key", "database_url"];
/// Names separated by commas.
const LISTS: [&str; 2] = ["delegations_capabilities", "audit_witnesses"];
const SECTIONS: [&str; 11] = [
    "tokens",
    "dpop",
    "keys",
    "delegations",
    "agents",
    "status",
    "vault",
    "audit",
    "limits",
    "ledger",
    "log",
];

impl Config {
    /// Loads the configuration of this process.
    ///
    /// # Errors
    /// A fault whose text names the file and key, or the variable, that cannot be used.
    pub fn load(file: Option<&Path>) -> Result<Self, Fault> {
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| own_variable(name, value))
            .collect::<Result<_, _>>()?;
        let file = file.map(Path::to_owned).or_else(|| environment.get("ACTCHAIN_CONFIG").map(PathBuf::from));
        let text = match &file {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path).during(&format!("reading {}", path.display()))?,
        };
        let origin = file.map_or_else(|| "the configuration".to_owned(), |path| path.display().to_string());
        let config = Self::parse(&origin, &text, &environment)?;
        Ok(Self { path: std::env::var_os("PATH"), ..config })
    }

    /// Builds a configuration from a file's text and variables.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(origin: &str, text: &str, environment: &BTreeMap<String, String>) -> Result<Self, Fault> {
        let table: toml::Table = text.parse().during(origin)?;
        let mut config = deserialize(origin, table)?;
        if !environment.is_empty() {
            config = config_with(text.parse().during(origin)?, environment)?;
        }
        config.check()?;
        Ok(config)
    }

    /// Our issuer identifier, exactly as it is compared and published.
    pub fn issuer(&self) -> String {
        self.issuer.clone().unwrap_or_else(|| format!("http://{}", self.listen))
    }

    /// Where the master key is kept when nobody gives one to the embedded default.
    pub fn own_master_key_file(&self) -> PathBuf {
        self.data_dir.join("master.key")
    }

    fn check(&self) -> Result<(), Fault> {
        check_issuer(&self.issuer())?;
        if self.master_key.is_some() && self.master_key_file.is_some() {
            return Err(Fault::new("master_key and master_key_file exclude each other"));
        }
        if self.tokens.max_depth > MOST_ACTORS {
            return Err(Fault::new(format!("tokens.max_depth must be at most {MOST_ACTORS}")));
        }
        let positive = [
            ("tokens.max_ttl", self.tokens.max_ttl),
            ("dpop.window", self.dpop.window),
            ("dpop.nonce_ttl", self.dpop.nonce_ttl),
            ("keys.rotate_every", self.keys.rotate_every),
            ("delegations.default_ttl", self.delegations.default_ttl),
            ("delegations.max_ttl", self.delegations.max_ttl),
            ("delegations.request_ttl", self.delegations.request_ttl),
            ("delegations.ceremony_ttl", self.delegations.ceremony_ttl),
            ("agents.max_ttl", self.agents.max_ttl),
            ("status.ttl", self.status.ttl),
            ("vault.connect_ttl", self.vault.connect_ttl),
            ("audit.heartbeat", self.audit.heartbeat),
            ("audit.reader_patience", self.audit.reader_patience),
            ("audit.streams", self.audit.streams),
            ("audit.sink_attempts", self.audit.sink_attempts),
            ("vault.proxy_timeout", self.vault.proxy_timeout),
            ("database_connections", self.database_connections),
            ("ledger.batch", u32::try_from(self.ledger.batch).unwrap_or(u32::MAX)),
            ("ledger.timeout_ms", u32::try_from(self.ledger.timeout_ms).unwrap_or(u32::MAX)),
            ("ledger.queue", u32::try_from(self.ledger.queue).unwrap_or(u32::MAX)),
        ];
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(Fault::new(format!("{name} must not be 0"))),
            None => Ok(()),
        }
    }
}

/// RFC 8414 §2: https without query or fragment; plain http on loopback only, for trying things out.
fn check_issuer(issuer: &str) -> Result<(), Fault> {
    let refuse = |why: &str| Err(Fault::new(format!("issuer {issuer:?} {why}")));
    let Ok(url) = Url::parse(issuer) else { return refuse("is not a URL") };
    if url.query().is_some()
        || url.fragment().is_some()
        || !url.username().is_empty()
        || url.password().is_some()
    {
        return refuse("must have neither query, fragment nor user");
    }
    let loopback = match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => return refuse("has no host"),
    };
    match url.scheme() {
        "https" => Ok(()),
        "http" if loopback => Ok(()),
        _ => refuse("must be https (http is for loopback addresses only)"),
    }
}

/// A variable that is meant for us. Kubernetes makes some of its own for a Service that is called actchain.
fn own_variable(name: OsString, value: OsString) -> Option<Result<(String, String), Fault>> {
    let name = name.into_string().ok().filter(|name| name.starts_with("ACTCHAIN_"))?;
    if ["ACTCHAIN_SERVICE_", "ACTCHAIN_PORT"].iter().any(|theirs| name.starts_with(theirs)) {
        return None;
    }
    let value = value.into_string().map_err(|_| Fault::new(format!("{name} is not valid UTF-8")));
    Some(value.map(|value| (name, value)))
}

fn deserialize(origin: &str, table: toml::Table) -> Result<Config, Fault> {
    serde_path_to_error::deserialize(toml::Value::Table(table)).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        let reason = inner.message().trim().to_owned();
        Fault::new(if path == "." {
            format!("{origin}: {reason}")
        } else {
            format!("{origin}: {path}: {reason}")
        })
    })
}

fn config_with(mut table: toml::Table, environment: &BTreeMap<String, String>) -> Result<Config, Fault> {
    let mut config = deserialize("the configuration", table.clone())?;
    for (name, text) in environment {
        if NOT_KEYS.contains(&name.as_str()) {
            continue;
        }
        let key = name.trim_start_matches("ACTCHAIN_").to_ascii_lowercase();
        set(&mut table, &key, text);
        config = deserialize(name, table.clone())?;
    }
    Ok(config)
}

/// Puts a variable where its name says: into a section where the name begins with one, else at the top.
fn set(table: &mut toml::Table, key: &str, text: &str) {
    let number = text.parse::<i64>().ok().filter(|_| !TEXTS.contains(&key));
    let value = match number {
        _ if LISTS.contains(&key) => toml::Value::Array(
            text.split(',').map(|name| toml::Value::String(name.trim().to_owned())).collect(),
        ),
        Some(number) => toml::Value::Integer(number),
        None => toml::Value::String(text.to_owned()),
    };
    let section = SECTIONS
        .iter()
        .find_map(|section| key.strip_prefix(section)?.strip_prefix('_').map(|rest| (*section, rest)));
    let Some((section, rest)) = section else {
        table.insert(key.to_owned(), value);
        return;
    };
    let inner = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    if let toml::Value::Table(inner) = inner {
        inner.insert(rest.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::parse("actchain.toml", text, &environment).map_err(|fault| fault.to_string())
    }

    #[test]
    fn nothing_set_is_a_working_configuration() {
        let config = parse("", &[]).unwrap();
        assert_eq!(config.issuer(), "http://127.0.0.1:8080");
        assert_eq!(config.dpop.nonce, Switch::Off);
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let text = "listen = \"127.0.0.1:1\"\n[limits]\nper_client = 3";
        let config =
            parse(text, &[("ACTCHAIN_LIMITS_PER_CLIENT", "7"), ("ACTCHAIN_DPOP_NONCE", "on")]).unwrap();
        assert_eq!(config.limits.per_client, 7);
        assert_eq!(config.dpop.nonce, Switch::On);
        assert_eq!(config.listen.port(), 1);
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let complaint = parse("[dpop]\nnonces = \"on\"", &[]).unwrap_err();
        assert!(complaint.contains("actchain.toml") && complaint.contains("nonces"), "{complaint}");
        let complaint = parse("", &[("ACTCHAIN_LISTEM", "x")]).unwrap_err();
        assert!(complaint.contains("ACTCHAIN_LISTEM"), "{complaint}");
        let complaint = parse("", &[("ACTCHAIN_TOKENS_MAX_TTL", "soon")]).unwrap_err();
        assert!(complaint.contains("ACTCHAIN_TOKENS_MAX_TTL"), "{complaint}");
    }

    #[test]
    fn md_01_issuers_that_nobody_could_use_are_refused() {
        for issuer in [
            "http://as.example.com",
            "https://as.example.com?x=1",
            "https://as.example.com#x",
            "https://me@as.example.com",
            "ftp://localhost",
            "as.example.com",
        ] {
            assert!(parse(&format!("issuer = \"{issuer}\""), &[]).is_err(), "{issuer}");
        }
        for issuer in ["https://as.example.com/t1", "http://localhost:8080", "http://[::1]:1"] {
            assert!(parse(&format!("issuer = \"{issuer}\""), &[]).is_ok(), "{issuer}");
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let config = parse("master_key = \"topsecret\"", &[]).unwrap();
        assert!(!format!("{config:?}").contains("topsecret"));
    }
}
