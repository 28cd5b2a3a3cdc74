//! Every key of the configuration and its accepted values. Errors are made from this table alone: they name the place,
//! the accepted values and an example. They never repeat a value, which may be a secret.

use toml::de::DeTable;

use crate::platform::fault::Fault;

/// The kind of value that a key accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Address,
    Issuer,
    Path,
    Database,
    /// 32 bytes in base64url.
    MasterKey,
    Number,
    /// A whole number of seconds, or a duration with units.
    Seconds,
    /// As `Seconds`, and at most one minute.
    FewSeconds,
    /// As `Seconds`, or with milliseconds.
    Duration,
    Boolean,
    Word(&'static [&'static str]),
    /// A `tracing` filter for log lines.
    Filter,
    Names(&'static str),
    Networks,
    NetworksAndHosts,
}

/// All keys. A key of a section is written `section.key`.
pub(super) const KEYS: &[(&str, Takes)] = &[
    ("listen", Takes::Address),
    ("issuer", Takes::Issuer),
    ("data_dir", Takes::Path),
    ("database_url", Takes::Database),
    ("postgres_bin_dir", Takes::Path),
    ("master_key", Takes::MasterKey),
    ("master_key_file", Takes::Path),
    ("previous_master_key_file", Takes::Path),
    ("workers", Takes::Number),
    ("database_connections", Takes::Number),
    ("http.cors_origins", Takes::Names("https://app.example.com")),
    ("http.trusted_proxies", Takes::Networks),
    ("outbound.allow", Takes::NetworksAndHosts),
    ("outbound.ca_file", Takes::Path),
    ("tokens.max_ttl", Takes::Seconds),
    ("tokens.max_depth", Takes::Number),
    ("dpop.nonce", Takes::Boolean),
    ("dpop.proof_max_age", Takes::Seconds),
    ("dpop.skew", Takes::FewSeconds),
    ("dpop.nonce_ttl", Takes::Seconds),
    ("keys.algorithm", Takes::Word(&["ES256", "Ed25519", "RS256"])),
    ("keys.rotate_every", Takes::Seconds),
    ("keys.prepublish", Takes::Seconds),
    ("delegations.default_ttl", Takes::Seconds),
    ("delegations.max_ttl", Takes::Seconds),
    ("delegations.request_ttl", Takes::Seconds),
    ("delegations.ceremony_ttl", Takes::Seconds),
    ("delegations.max_pending_requests", Takes::Number),
    ("delegations.max_pending_requests_per_client", Takes::Number),
    ("delegations.max_pending_confirmations", Takes::Number),
    ("delegations.max_pending_confirmations_per_client", Takes::Number),
    ("delegations.capabilities", Takes::Names("observe")),
    ("delegations.admins_decide", Takes::Boolean),
    ("delegations.decide_in", Takes::Word(&["anywhere", "console"])),
    ("standing_grants.default_ttl", Takes::Seconds),
    ("standing_grants.max_ttl", Takes::Seconds),
    ("offline.max_idle", Takes::Seconds),
    ("agents.max_ttl", Takes::Seconds),
    ("agents.max_per_task", Takes::Number),
    ("sessions.text_retention", Takes::Seconds),
    ("status.ttl", Takes::Seconds),
    ("console.enabled", Takes::Boolean),
    ("console.session", Takes::Seconds),
    ("console.idle", Takes::Seconds),
    ("console.fresh", Takes::Seconds),
    ("vault.refresh_leeway", Takes::Seconds),
    ("vault.connect_ttl", Takes::Seconds),
    ("vault.proxy_max_request_bytes", Takes::Number),
    ("vault.proxy_max_response_bytes", Takes::Number),
    ("vault.proxy_timeout", Takes::Seconds),
    ("audit.partition", Takes::Word(&["day", "week", "month"])),
    ("audit.heartbeat", Takes::Seconds),
    ("audit.stream_write_timeout", Takes::Seconds),
    ("audit.max_streams", Takes::Number),
    ("audit.receipts", Takes::Boolean),
    ("audit.witnesses", Takes::Names("witness.example.com+1a2b3c4d+BFmF…")),
    ("audit.witness_quorum", Takes::Number),
    ("audit.sink_attempts", Takes::Number),
    ("audit.verify_every", Takes::Seconds),
    ("limits.requests_per_second_per_client", Takes::Number),
    ("limits.failed_auth_per_minute", Takes::Number),
    ("limits.max_body_bytes", Takes::Number),
    ("limits.max_targets", Takes::Number),
    ("ledger.batch", Takes::Number),
    ("ledger.queue", Takes::Number),
    ("ledger.timeout", Takes::Duration),
    ("log.format", Takes::Word(&["json", "text"])),
    ("log.filter", Takes::Filter),
];

impl Takes {
    /// Finds a key by its name; a key of a section is written `section.key`.
    pub(super) fn of(name: &str) -> Option<Self> {
        KEYS.iter().find(|(known, _)| *known == name).map(|(_, takes)| *takes)
    }

    fn accepted(self) -> String {
        match self {
            Self::Address => "an IP address with a port".to_owned(),
            Self::Issuer => "an https URL, or an http URL on a loopback address".to_owned(),
            Self::Path => "the path of a file or folder".to_owned(),
            Self::Database => "a URL that begins with postgres:// or postgresql://".to_owned(),
            Self::MasterKey => "32 bytes in base64url (43 characters)".to_owned(),
            Self::Number => "a whole number that is not negative".to_owned(),
            Self::Seconds | Self::FewSeconds => {
                "a whole number of seconds, or a duration of weeks, days, hours, minutes and seconds (w, d, h, m, s)"
                    .to_owned()
            }
            Self::Duration => {
                "a whole number of seconds, or a duration of at most an hour with a unit (m, s, ms)".to_owned()
            }
            Self::Boolean => "true or false".to_owned(),
            Self::Word(words) => words.join(" or "),
            Self::Filter => "a filter for log lines".to_owned(),
            Self::Names(_) => "a list of names".to_owned(),
            Self::Networks => "a list of IP addresses and networks".to_owned(),
            Self::NetworksAndHosts => "a list of networks and host names".to_owned(),
        }
    }

    /// An example value as it is written in the environment.
    pub(super) fn example(self) -> &'static str {
        match self {
            Self::Address => "127.0.0.1:8080",
            Self::Issuer => "https://as.example.com",
            Self::Path => "/var/lib/actchain",
            Self::Database => "postgres://actchain@db.example.com/actchain",
            Self::MasterKey => "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_AbCdE",
            Self::Number => "10",
            Self::Seconds => "15m",
            Self::FewSeconds => "10s",
            Self::Duration => "1500ms",
            Self::Boolean => "true",
            Self::Word(words) => words.first().copied().unwrap_or_default(),
            Self::Filter => "actchain=debug,info",
            Self::Names(name) => name,
            Self::Networks => "10.0.0.0/8",
            Self::NetworksAndHosts => "idp.corp.example.com",
        }
    }

    /// The same value as it is written in the file.
    fn toml_example(self) -> String {
        match self {
            Self::Number | Self::Boolean => self.example().to_owned(),
            Self::Names(_) | Self::Networks | Self::NetworksAndHosts => format!("[\"{}\"]", self.example()),
            _ => format!("\"{}\"", self.example()),
        }
    }

    /// Converts the text of a variable to a value of the file.
    pub(super) fn value(self, text: &str) -> toml::Value {
        let plain = || toml::Value::String(text.to_owned());
        match self {
            Self::Number | Self::Seconds | Self::FewSeconds | Self::Duration => {
                text.parse().map_or_else(|_| plain(), toml::Value::Integer)
            }
            Self::Boolean => text.parse().map_or_else(|_| plain(), toml::Value::Boolean),
            Self::Names(_) | Self::Networks | Self::NetworksAndHosts => toml::Value::Array(
                text.split(',').map(|name| toml::Value::String(name.trim().to_owned())).collect(),
            ),
            _ => plain(),
        }
    }
}

/// The source of a configuration, for error messages.
#[derive(Debug, Clone, Copy)]
pub(super) enum ConfigSource<'a> {
    /// Name and text of a file.
    File(&'a str, &'a str),
    /// Name of an environment variable.
    Variable(&'a str),
}

impl ConfigSource<'_> {
    /// An error for a key whose value is not accepted.
    pub(super) fn unusable(self, key: &str) -> Fault {
        let Some(takes) = Takes::of(key) else {
            return Fault::new(format!("{}{key} cannot be used", self.place(key)));
        };
        let accepted = takes.accepted();
        Fault::new(match self {
            Self::Variable(name) => {
                format!("{name} takes {accepted}, for example: {name}={}", takes.example())
            }
            Self::File(..) => {
                let last = key.rsplit('.').next().unwrap_or(key);
                let example = takes.toml_example();
                format!("{}{key} takes {accepted}, for example: {last} = {example}", self.place(key))
            }
        })
    }

    /// An error for an unknown key.
    pub(super) fn unknown(self, key: &str) -> Fault {
        let near = KEYS
            .iter()
            .map(|(known, _)| (strsim::jaro_winkler(known, key), *known))
            .filter(|(likeness, _)| *likeness > 0.85)
            .max_by(|one, other| one.0.total_cmp(&other.0))
            .map(|(_, known)| known);
        let hint = near.map(|known| match self {
            Self::Variable(_) => format!(": did you mean {}?", variable(known)),
            Self::File(..) => format!(": did you mean {known}?"),
        });
        let hint = hint.unwrap_or_else(|| ": docs/reference/configuration.md lists all keys".to_owned());
        Fault::new(match self {
            Self::Variable(name) => format!("there is no setting {name}{hint}"),
            Self::File(..) => format!("{}there is no key {key}{hint}", self.place(key)),
        })
    }

    fn place(self, key: &str) -> String {
        match self {
            Self::Variable(name) => format!("{name}: "),
            Self::File(name, text) => {
                let at = DeTable::parse(text).ok().and_then(|table| offset_of(table.get_ref(), key));
                let line = at.map(|at| format!(", line {}", position(text, at).0)).unwrap_or_default();
                format!("{name}{line}: ")
            }
        }
    }
}

/// The name of the environment variable for a key.
pub(super) fn variable(key: &str) -> String {
    format!("ACTCHAIN_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// Whether there are keys in a section of this name.
pub(super) fn is_section(name: &str) -> bool {
    KEYS.iter().any(|(known, _)| known.split_once('.').is_some_and(|(section, _)| section == name))
}

/// Parses a file, and refuses unknown keys.
pub(super) fn parse(name: &str, text: &str) -> Result<toml::Table, Fault> {
    let origin = ConfigSource::File(name, text);
    // The error's own text quotes the line, which may contain a secret.
    let syntax = |error: toml::de::Error| {
        let place = error.span().map(|span| position(text, span.start));
        let place = place.map(|(line, column)| format!(", line {line}, column {column}"));
        Fault::new(format!("{name}{}: {}", place.unwrap_or_default(), error.message().trim()))
    };
    let table = DeTable::parse(text).map_err(syntax)?;
    for (key, value) in table.get_ref() {
        let key = key.get_ref().as_ref();
        if !is_section(key) {
            Takes::of(key).ok_or_else(|| origin.unknown(key))?;
            continue;
        }
        let Some(section) = value.get_ref().as_table() else {
            return Err(Fault::new(format!(
                "{}{key} is a section: write its keys below the line [{key}]",
                origin.place(key)
            )));
        };
        for inner in section.keys() {
            let full = format!("{key}.{}", inner.get_ref());
            Takes::of(&full).ok_or_else(|| origin.unknown(&full))?;
        }
    }
    text.parse().map_err(syntax)
}

fn offset_of(table: &DeTable<'_>, key: &str) -> Option<usize> {
    let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    let (found, value) = table.iter().find(|(name, _)| name.get_ref() == first)?;
    match (rest, value.get_ref().as_table()) {
        (Some(rest), Some(inner)) => offset_of(inner, rest),
        _ => Some(found.span().start),
    }
}

/// Line and column of an offset, both from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}
