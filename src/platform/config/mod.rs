//! Configuration: defaults, then one strict TOML file, then `ACTCHAIN_…` from the environment. No other module reads
//! the environment. Unknown keys are refused by name.

mod console;
mod keys;
mod networks;
mod offline;
mod outbound;
mod sections;
mod sessions;
mod settings;
mod standing_grants;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use url::Url;

pub use self::console::ConsoleConfig;
use self::keys::ConfigSource;
pub use self::networks::Networks;
pub use self::offline::OfflineConfig;
pub use self::outbound::{AllowList, OutboundConfig};
pub use self::sections::{
    AgentConfig, AuditConfig, DecisionPlace, DelegationConfig, DpopConfig, HttpConfig, KeyConfig,
    LedgerConfig, LimitConfig, LogConfig, LogFormat, RotationInterval, StatusConfig, TokenConfig,
    VaultConfig,
};
pub use self::sessions::SessionConfig;
pub use self::settings::{Setting, SettingSource, SettingValue};
pub use self::standing_grants::StandingGrantConfig;
use super::fault::{Context, Fault};

/// Everything an operator can set. Durations are seconds, and may be written with units, such as `15m`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port of the HTTP server.
    pub listen: SocketAddr,
    /// This server's issuer identifier; `http://` + `listen` if absent. The endpoints are below its path.
    pub issuer: Option<String>,
    /// Folder of the embedded cluster and of the master key.
    pub data_dir: PathBuf,
    /// URL of an external database; the embedded cluster if absent.
    #[serde(skip_serializing)]
    pub database_url: Option<SecretString>,
    /// Folder of PostgreSQL's programs, if not one of the usual folders.
    pub postgres_bin_dir: Option<PathBuf>,
    /// 32 bytes in base64url.
    #[serde(skip_serializing)]
    pub master_key: Option<SecretString>,
    /// A file that contains the master key.
    pub master_key_file: Option<PathBuf>,
    /// A file that contains the previous master key, which is used only to open seals.
    pub previous_master_key_file: Option<PathBuf>,
    /// HTTP threads; 0 means one for each core.
    pub workers: usize,
    /// Connections to the database for reading; the ledger has one more of its own.
    pub database_connections: u32,
    pub http: HttpConfig,
    pub outbound: OutboundConfig,
    pub tokens: TokenConfig,
    pub dpop: DpopConfig,
    pub keys: KeyConfig,
    pub delegations: DelegationConfig,
    pub standing_grants: StandingGrantConfig,
    pub offline: OfflineConfig,
    pub agents: AgentConfig,
    pub sessions: SessionConfig,
    pub status: StatusConfig,
    pub vault: VaultConfig,
    pub audit: AuditConfig,
    pub console: ConsoleConfig,
    /// Limits on requests, for unauthenticated and authenticated clients.
    pub limits: LimitConfig,
    /// Group commit of the ledger.
    pub ledger: LedgerConfig,
    pub log: LogConfig,
    /// The variable `PATH`.
    #[serde(skip)]
    pub path: Option<OsString>,
    /// Where the keys come from that are not defaults.
    #[serde(skip)]
    pub sources: BTreeMap<&'static str, SettingSource>,
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
            http: HttpConfig::default(),
            outbound: OutboundConfig::default(),
            tokens: TokenConfig::default(),
            dpop: DpopConfig::default(),
            keys: KeyConfig::default(),
            delegations: DelegationConfig::default(),
            standing_grants: StandingGrantConfig::default(),
            offline: OfflineConfig::default(),
            agents: AgentConfig::default(),
            sessions: SessionConfig::default(),
            status: StatusConfig::default(),
            vault: VaultConfig::default(),
            audit: AuditConfig::default(),
            console: ConsoleConfig::default(),
            limits: LimitConfig::default(),
            ledger: LedgerConfig::default(),
            log: LogConfig::default(),
            path: None,
            sources: BTreeMap::new(),
        }
    }
}

/// JSON is read to a bounded depth, so a longer chain could not be read back.
const MOST_ACTORS: u32 = 24;
const MAX_LEDGER_TIMEOUT: Duration = Duration::from_secs(3_600);
/// Environment variables that are not keys of the file.
const NOT_KEYS: [&str; 1] = ["ACTCHAIN_CONFIG"];
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
            Some(path) => std::fs::read_to_string(path).context(&format!("reading {}", path.display()))?,
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
        let mut table = keys::parse(origin, text)?;
        let mut sources = settings::in_file(&table, origin);
        let mut config = deserialize(ConfigSource::File(origin, text), table.clone())?;
        for (name, text) in environment.iter().filter(|(name, _)| !NOT_KEYS.contains(&name.as_str())) {
            let key = set(&mut table, name, text)?;
            sources.insert(key, SettingSource::Variable(name.clone()));
            config = deserialize(ConfigSource::Variable(name), table.clone())?;
        }
        config.check()?;
        config.sources = sources;
        Ok(config)
    }

    /// This server's issuer identifier, exactly as it is compared and published.
    pub fn issuer(&self) -> String {
        self.issuer.clone().unwrap_or_else(|| format!("http://{}", self.listen))
    }

    /// The value in force of each key, without secrets, and where it comes from.
    pub fn settings(&self) -> Result<Vec<Setting>, Fault> {
        let in_force = Self { issuer: Some(self.issuer()), ..self.clone() };
        let values = serde_json::to_value(&in_force).context("writing the configuration")?;
        Ok(settings::list(&values, &self.sources))
    }

    /// The default file of the master key, used with the embedded cluster.
    pub fn own_master_key_file(&self) -> PathBuf {
        self.data_dir.join("master.key")
    }

    fn check(&self) -> Result<(), Fault> {
        check_issuer(&self.issuer())?;
        if let Some(url) = &self.database_url {
            check_database(url)?;
        }
        self.http.check()?;
        self.outbound.check()?;
        if self.master_key.is_some() && self.master_key_file.is_some() {
            return Err(Fault::new("master_key and master_key_file exclude each other"));
        }
        if self.tokens.max_depth > MOST_ACTORS {
            return Err(Fault::new(format!("tokens.max_depth must be at most {MOST_ACTORS}")));
        }
        // FAPI 2.0 Security Profile §5.3.2.1: more than 60 seconds ahead is refused.
        if self.dpop.skew > 60 {
            return Err(Fault::new("dpop.skew must be at most 60"));
        }
        // PostgreSQL counts the milliseconds of a timeout in 32 bits.
        if self.ledger.timeout > MAX_LEDGER_TIMEOUT {
            return Err(Fault::new("ledger.timeout must be at most 1h"));
        }
        let positive = [
            ("tokens.max_ttl", self.tokens.max_ttl),
            ("dpop.proof_max_age", self.dpop.proof_max_age),
            ("dpop.nonce_ttl", self.dpop.nonce_ttl),
            ("keys.rotate_every", self.keys.rotate_every),
            ("delegations.default_ttl", self.delegations.default_ttl),
            ("delegations.max_ttl", self.delegations.max_ttl),
            ("delegations.request_ttl", self.delegations.request_ttl),
            ("delegations.ceremony_ttl", self.delegations.ceremony_ttl),
            ("standing_grants.default_ttl", self.standing_grants.default_ttl),
            ("standing_grants.max_ttl", self.standing_grants.max_ttl),
            ("offline.max_idle", self.offline.max_idle),
            ("agents.max_ttl", self.agents.max_ttl),
            ("sessions.text_retention", self.sessions.text_retention),
            ("status.ttl", self.status.ttl),
            ("vault.connect_ttl", self.vault.connect_ttl),
            ("audit.heartbeat", self.audit.heartbeat),
            ("audit.stream_write_timeout", self.audit.stream_write_timeout),
            ("audit.max_streams", self.audit.max_streams),
            ("audit.sink_attempts", self.audit.sink_attempts),
            ("vault.proxy_timeout", self.vault.proxy_timeout),
            ("database_connections", self.database_connections),
            ("ledger.batch", u32::try_from(self.ledger.batch).unwrap_or(u32::MAX)),
            ("ledger.timeout", u32::try_from(self.ledger.timeout.as_millis()).unwrap_or(u32::MAX)),
            ("ledger.queue", u32::try_from(self.ledger.queue).unwrap_or(u32::MAX)),
        ];
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(Fault::new(format!("{name} must not be 0"))),
            None => Ok(()),
        }
    }
}

/// RFC 8414 §2: https without query or fragment. Plain http is accepted on loopback only, for trying things out.
fn check_issuer(issuer: &str) -> Result<(), Fault> {
    let refuse = |why: &str| Err(Fault::new(format!("issuer {issuer:?} {why}")));
    let Ok(url) = Url::parse(issuer) else {
        // The value is not shown: it may belong to another key.
        return Err(Fault::new("issuer is not a URL: write it as in https://as.example.com"));
    };
    if !url.username().is_empty() || url.password().is_some() {
        // The value is not shown: it may contain a password.
        return Err(Fault::new("issuer must have neither user nor password, as in https://as.example.com"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return refuse("must have neither query nor fragment");
    }
    // RFC 3986 §2.3: these characters have only one spelling. The issuer is part of the URLs that clients build, of
    // routes, and of the log's key name.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if !issuer.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refuse("has characters that are not printable ASCII; write a name as xn--…");
    }
    let loopback = match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) if name.bytes().all(|byte| plain(byte) || byte == b'_') => {
            name == "localhost"
        }
        Some(url::Host::Domain(_)) => {
            return refuse("has a host with something else than letters, digits and -._");
        }
        None => return refuse("has no host"),
    };
    match url.scheme() {
        "https" => {}
        "http" if loopback => {}
        _ => return refuse("must be https (http is for loopback addresses only)"),
    }
    let segment = |text: &str| !text.is_empty() && ![".", ".."].contains(&text) && text.bytes().all(plain);
    // Checks the text as written: a URL parser accepts backslashes and a wrong number of slashes.
    let (authority, path) = match issuer.split_once("://") {
        Some((_, rest)) => rest.split_once('/').unwrap_or((rest, "")),
        None => ("", ""),
    };
    if authority.is_empty() || issuer.contains('\\') {
        return refuse("is not written as scheme://host/path");
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    if !path.is_empty() && !path.split('/').all(segment) {
        return refuse("has a path with something else than segments of letters, digits and -._~");
    }
    Ok(())
}

/// Other databases are refused by name. The URL is not shown, since it may contain a password.
fn check_database(url: &SecretString) -> Result<(), Fault> {
    let scheme = url.expose_secret().split_once("://").map(|(scheme, _)| scheme);
    match scheme {
        Some("postgres" | "postgresql") => Ok(()),
        Some(other) if other.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) => {
            Err(Fault::new(format!(
                "database_url begins with {other}://, but actchain works with PostgreSQL only: write \
                 postgres://user@host/database"
            )))
        }
        _ => Err(Fault::new("database_url is not a URL: write postgres://user@host/database")),
    }
}

/// A variable for actchain. Skips those that Kubernetes sets for a Service called actchain.
fn own_variable(name: OsString, value: OsString) -> Option<Result<(String, String), Fault>> {
    let name = name.into_string().ok().filter(|name| name.starts_with("ACTCHAIN_"))?;
    if ["ACTCHAIN_SERVICE_", "ACTCHAIN_PORT"].iter().any(|theirs| name.starts_with(theirs)) {
        return None;
    }
    let value = value.into_string().map_err(|_| Fault::new(format!("{name} is not valid UTF-8")));
    Some(value.map(|value| (name, value)))
}

fn deserialize(origin: ConfigSource<'_>, table: toml::Table) -> Result<Config, Fault> {
    serde_path_to_error::deserialize(toml::Value::Table(table)).map_err(|error| {
        // The error's own text repeats the value, which may be a secret.
        let path = error.path().to_string();
        origin.unusable(path.split('[').next().unwrap_or_default())
    })
}

/// Sets the key that a variable names: in a section if the name begins with a section's name, else at the top.
fn set(table: &mut toml::Table, name: &str, text: &str) -> Result<&'static str, Fault> {
    let found = keys::KEYS.iter().find(|(key, _)| keys::variable(key) == name);
    let Some((key, takes)) = found else {
        let guess = name.trim_start_matches("ACTCHAIN_").to_ascii_lowercase();
        return Err(ConfigSource::Variable(name).unknown(&guess));
    };
    let value = takes.value(text);
    match key.split_once('.') {
        None => table.insert((*key).to_owned(), value),
        Some((section, key)) => {
            let inner = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            inner.as_table_mut().and_then(|inner| inner.insert(key.to_owned(), value))
        }
    };
    Ok(key)
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
        assert!(!config.dpop.nonce);
        // SECURITY.md and docs/ state these values.
        assert_eq!((config.tokens.max_ttl, config.status.ttl), (900, 30));
    }

    #[test]
    fn the_ledger_s_timeout_is_a_duration_like_its_siblings() {
        let timeout =
            |value: &str| parse(&format!("[ledger]\ntimeout = {value}"), &[]).map(|read| read.ledger.timeout);
        for (value, milliseconds) in [
            ("2", 2_000),
            ("\"2s\"", 2_000),
            ("\"1500ms\"", 1_500),
            ("\"1.5s\"", 1_500),
            ("\"0.25s\"", 250),
            ("\"1m\"", 60_000),
        ] {
            assert_eq!(timeout(value), Ok(Duration::from_millis(milliseconds)), "{value}");
        }
        for value in
            ["0", "\"0ms\"", "\"1.5\"", "\"1.5001s\"", "\".5s\"", "\"-1s\"", "\"+1ms\"", "\"2h\"", "1.5"]
        {
            assert!(timeout(value).unwrap_err().contains("ledger.timeout"), "{value}");
        }
        let environment = [("ACTCHAIN_LEDGER_TIMEOUT", "750ms")];
        assert_eq!(parse("", &environment).unwrap().ledger.timeout, Duration::from_millis(750));
        let old = parse("[ledger]\ntimeout_ms = 600", &[]).unwrap_err();
        assert!(old.contains("did you mean ledger.timeout?"), "{old}");
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let text = "listen = \"127.0.0.1:1\"\n[limits]\nrequests_per_second_per_client = 3";
        let config = parse(
            text,
            &[("ACTCHAIN_LIMITS_REQUESTS_PER_SECOND_PER_CLIENT", "7"), ("ACTCHAIN_DPOP_NONCE", "true")],
        )
        .unwrap();
        assert_eq!(config.limits.requests_per_second_per_client, 7);
        assert!(config.dpop.nonce);
        assert_eq!(config.listen.port(), 1);
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let complaint = parse("[dpop]\nnonces = true", &[]).unwrap_err();
        assert!(complaint.contains("actchain.toml") && complaint.contains("nonces"), "{complaint}");
        let complaint = parse("", &[("ACTCHAIN_LISTEM", "x")]).unwrap_err();
        assert!(complaint.contains("ACTCHAIN_LISTEM"), "{complaint}");
        let complaint = parse("", &[("ACTCHAIN_TOKENS_MAX_TTL", "soon")]).unwrap_err();
        assert!(complaint.contains("ACTCHAIN_TOKENS_MAX_TTL"), "{complaint}");
    }

    #[test]
    fn unusable_issuers_are_refused() {
        for issuer in [
            "http://as.example.com",
            "https://as.example.com?x=1",
            "https://as.example.com#x",
            "https://me@as.example.com",
            "ftp://localhost",
            "as.example.com",
            "https://as.example.com/a+b",
            "https://as.example.com/a%20b",
            "https://as.example.com/a b",
            "https://as.example.com/%C3%BC",
            "https://as.example.com/\u{fc}",
            "https://as.example.com/{x}",
            "https://as.example.com/{x:.*}",
            "https://as.example.com//a",
            "https://as.example.com/a//",
            "https://as.example.com/a/../b",
            "https://as.example.com/%2e",
            "https://as.example.com/a:b@c",
            "https:/as.example.com/a+b",
            "https:as.example.com/{x}",
            "https:///as.example.com/t1",
            "https:\\\\as.example.com\\a+b",
            "https://as.example.com\\{x}",
            "https://as.example.com/a\tb",
            "https://as.exam\tple.com",
            "https://a+b.example.com",
            "https://b\u{fc}cher.example",
        ] {
            assert!(parse(&format!("issuer = {issuer:?}"), &[]).is_err(), "{issuer}");
        }
        for issuer in [
            "https://as.example.com/t1",
            "https://as.example.com/t1/",
            "https://as.example.com/",
            "https://as.example.com/a.b/C_d/e-f~1",
            "http://localhost:8080",
            "http://[::1]:1",
        ] {
            assert!(parse(&format!("issuer = \"{issuer}\""), &[]).is_ok(), "{issuer}");
        }
    }

    #[test]
    fn a_bad_value_is_refused_with_its_place_and_an_example() {
        let text = "listen = \"127.0.0.1:1\"\n\n[dpop]\n  nonce = \"on\"\n";
        assert_eq!(
            parse(text, &[]).unwrap_err(),
            "actchain.toml, line 4: dpop.nonce takes true or false, for example: nonce = true"
        );
        assert_eq!(
            parse("", &[("ACTCHAIN_TOKENS_MAX_TTL", "soon")]).unwrap_err(),
            "ACTCHAIN_TOKENS_MAX_TTL takes a whole number of seconds, or a duration of weeks, days, hours, minutes \
             and seconds (w, d, h, m, s), for example: ACTCHAIN_TOKENS_MAX_TTL=15m"
        );
        assert_eq!(
            parse("[dpop]\nnonces = true", &[]).unwrap_err(),
            "actchain.toml, line 2: there is no key dpop.nonces: did you mean dpop.nonce?"
        );
        assert_eq!(
            parse("dpop = true", &[]).unwrap_err(),
            "actchain.toml, line 1: dpop is a section: write its keys below the line [dpop]"
        );
        assert_eq!(
            parse("a = [1", &[]).unwrap_err(),
            "actchain.toml, line 1, column 7: unclosed array, expected `]`"
        );
    }

    /// All keys as serde knows them, from its error about an unknown key.
    fn known_to_serde() -> Vec<String> {
        let fields = |text: &str| {
            let complaint = toml::from_str::<Config>(text).unwrap_err().message().to_owned();
            let names = complaint.split('`').skip(3).step_by(2).map(str::to_owned).collect::<Vec<_>>();
            assert!(!names.is_empty(), "{complaint}");
            names
        };
        let mut found = Vec::new();
        for top in fields("zzz = 1") {
            match keys::is_section(&top) {
                false => found.push(top),
                true => {
                    let inner = fields(&format!("[{top}]\nzzz = 1"));
                    found.extend(inner.into_iter().map(|inner| format!("{top}.{inner}")));
                }
            }
        }
        found
    }

    #[test]
    fn the_table_of_keys_has_all_of_them_and_its_examples_are_accepted() {
        let mut known = known_to_serde();
        known.sort();
        let mut listed: Vec<String> = keys::KEYS.iter().map(|(key, _)| (*key).to_owned()).collect();
        listed.sort();
        assert_eq!(listed, known);
        for (key, takes) in keys::KEYS {
            let variable = keys::variable(key);
            parse("", &[(&variable, takes.example())]).unwrap_or_else(|complaint| panic!("{complaint}"));
        }
    }

    #[test]
    fn seconds_take_units_and_other_numbers_do_not() {
        for (key, takes) in keys::KEYS {
            let accepted = parse("", &[(&keys::variable(key), "15m")]).is_ok();
            match takes {
                keys::Takes::Seconds => assert!(accepted, "{key}"),
                keys::Takes::Number => assert!(!accepted, "{key}"),
                _ => {}
            }
        }
        let config = parse("[keys]\nrotate_every = \"7d\"\n[tokens]\nmax_ttl = \"1h30m\"", &[]).unwrap();
        assert_eq!((config.keys.rotate_every, config.tokens.max_ttl), (604_800, 5_400));
    }

    #[test]
    fn other_databases_are_refused_without_their_url() {
        for url in [
            "mysql://me:CANARY@db/x",
            "postgres//me:CANARY@db/x",
            "CANARY",
            "sqlite::CANARY:",
            "host=db password=CANARY",
        ] {
            for complaint in [
                parse(&format!("database_url = \"{url}\""), &[]).unwrap_err(),
                parse("", &[("ACTCHAIN_DATABASE_URL", url)]).unwrap_err(),
            ] {
                assert!(!complaint.contains("CANARY"), "{complaint}");
                assert!(
                    complaint.contains("database_url") && complaint.contains("postgres://"),
                    "{complaint}"
                );
            }
        }
        for url in ["postgres://me@db/x", "postgresql:///x?host=/run/postgresql"] {
            assert!(parse(&format!("database_url = \"{url}\""), &[]).is_ok(), "{url}");
        }
    }

    #[test]
    fn origins_are_written_as_browsers_write_them() {
        let with = |origins: &str| parse("", &[("ACTCHAIN_HTTP_CORS_ORIGINS", origins)]);
        let config = with("https://app.example.com, http://localhost:5173").unwrap();
        assert_eq!(config.http.cors_origins, ["https://app.example.com", "http://localhost:5173"]);
        for origin in [
            "*",
            "null",
            "app.example.com",
            "https://app.example.com/",
            "https://app.example.com:443",
            "https://App.example.com",
            "https://app.example.com/x",
            "https://me@app.example.com",
            "https://*.example.com",
            "ftp://app.example.com",
            "",
        ] {
            let complaint = with(origin).unwrap_err();
            assert!(complaint.contains("http.cors_origins"), "{origin}: {complaint}");
        }
    }

    #[test]
    fn trusted_proxies_are_networks_and_never_all_addresses() {
        let with = |networks: &str| parse("", &[("ACTCHAIN_HTTP_TRUSTED_PROXIES", networks)]);
        let trusted = with("10.0.0.0/8, 192.0.2.1, 2001:db8::/32").unwrap().http.trusted_proxies;
        assert!(
            trusted.contains("192.0.2.1".parse().unwrap()) && !trusted.contains("192.0.2.2".parse().unwrap())
        );
        for networks in
            ["0.0.0.0/0", "::/0", "10.0.0.1/8", "10.0.0.0/33", "proxy.example.com", "*", "", "10.0.0.1,"]
        {
            let complaint = with(networks).unwrap_err();
            assert!(
                complaint.contains("TRUSTED_PROXIES") || complaint.contains("trusted_proxies"),
                "{complaint}"
            );
        }
    }

    #[test]
    fn outbound_allow_has_no_entry_without_effect_and_none_for_all_addresses() {
        let with = |entries: &str| parse("", &[("ACTCHAIN_OUTBOUND_ALLOW", entries)]);
        let allow = with("10.0.0.0/8, *.corp.example.com, fd12::/16, 127.0.0.1, ::1").unwrap().outbound.allow;
        assert_eq!(allow.texts().len(), 5);
        for entries in
            ["169.254.169.254", "169.254.0.0/16", "fe80::/10", "64:ff9b::/96", "0.0.0.0/8", "fd00:ec2::254"]
        {
            let complaint = with(entries).unwrap_err();
            assert!(
                complaint.starts_with("outbound.allow: ") && complaint.contains("metadata"),
                "{complaint}"
            );
        }
        for entries in ["0.0.0.0/0", "::/0"] {
            assert!(with(entries).unwrap_err().contains("every private address"), "{entries}");
        }
        for entries in ["*", "https://idp.example.com", "10.0.0.1/8", ""] {
            assert!(with(entries).unwrap_err().contains("a list of networks and host names"), "{entries}");
        }
    }

    #[test]
    fn no_error_shows_a_value() {
        const CANARY: &str = "CANARY-7f3a";
        let refused = |text: &str, environment: &[(&str, &str)]| {
            if let Err(complaint) = parse(text, environment) {
                assert!(!complaint.contains(CANARY), "{text}\n{environment:?}\n{complaint}");
            }
        };
        // A secret beside each kind of syntax error.
        for broken in [
            "master_key = \"CANARY-7f3a\nlisten = 1",
            "master_key = 'CANARY-7f3a",
            "master_key = CANARY-7f3a",
            "master_key = \"CANARY-7f3a\" database_url = 1",
            "master_key \"CANARY-7f3a\"",
            "master_key = \"CANARY-7f3a\\q\"",
            "master_key = \"CANARY-7f3a\u{1}\"",
            "master_key = [\"CANARY-7f3a\"",
            "master_key = {a = \"CANARY-7f3a\"",
            "master_key = \"x\"\nmaster_key = \"CANARY-7f3a\"",
            "master_key = \"\"\"CANARY-7f3a",
            "[master_key\nx = \"CANARY-7f3a\"",
            "master_key = \"CANARY-7f3a\"\n]",
            "master_key = 2026-CANARY-7f3a",
        ] {
            assert!(parse(broken, &[]).is_err(), "{broken}");
            refused(broken, &[]);
        }
        // A secret as a value of the wrong type, under each key.
        for (key, _) in keys::KEYS {
            for value in
                ["\"CANARY-7f3a\"", "[\"CANARY-7f3a\"]", "[[\"CANARY-7f3a\"]]", "{CANARY = \"CANARY-7f3a\"}"]
            {
                let line = match key.split_once('.') {
                    Some((section, key)) => format!("[{section}]\n{key} = {value}"),
                    None => format!("{key} = {value}"),
                };
                refused(&line, &[]);
            }
            refused("", &[(&keys::variable(key), CANARY)]);
        }
        refused("issuer = \"https://me:CANARY-7f3a@as.example.com\"", &[]);
    }

    #[test]
    fn secrets_do_not_print() {
        let config = parse("master_key = \"topsecret\"", &[]).unwrap();
        assert!(!format!("{config:?}").contains("topsecret"));
    }
}
