//! `actchain doctor`: configuration, database, clock, keys, reachability of issuers. Exits 0 if nothing is wrong.

use std::process::ExitCode;

use clap::ArgAction::SetTrue;
use serde_json::json;
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use time::{Duration, OffsetDateTime};

use super::context::{self, CommandContext, Opening};
use super::output::{OutputFormat, print_json};
use crate::domain::audit::store;
use crate::domain::client::Client;
use crate::domain::issuer::Issuer;
use crate::domain::key::{Keyring, StoredKey};
use crate::domain::row_mac::RowMac;
use crate::domain::{client, key, registrar, registry, server_info};
use crate::platform::clock::rfc3339;
use crate::platform::config::OutboundConfig;
use crate::platform::fault::Fault;
use crate::platform::outbound::Outbound;
use crate::services::audit;
use crate::services::introspection_request::Introspector;
use crate::services::issuer_metadata::{check_endpoints, differences};
use actchain_protocol::json;

/// The most that the database's clock may differ from this machine's.
const MOST_DRIFT: Duration = Duration::seconds(2);
/// The largest log that `doctor` verifies, in events: a larger log takes too long to wait for.
const MOST_VERIFIED: u64 = 200_000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(long = "json", action = SetTrue)]
    format: OutputFormat,
}

struct Finding {
    what: String,
    wrong: Option<String>,
    /// Warnings that do not change the exit code.
    warnings: Vec<String>,
}

impl Finding {
    fn of<T>(what: impl Into<String>, result: Result<T, Fault>) -> Self {
        Self { what: what.into(), wrong: result.err().map(|fault| fault.to_string()), warnings: Vec::new() }
    }
}

pub(super) async fn run(opening: Result<Opening, Fault>, args: Args) -> Result<ExitCode, Fault> {
    let mut findings = Vec::new();
    match opening {
        Err(fault) => findings.push(Finding::of::<()>("configuration", Err(fault))),
        Ok(opening) => {
            // Without a data directory, nothing else can be checked.
            opening.require_present()?;
            findings.push(Finding::of("configuration", Ok(())));
            match context::with(opening, check).await {
                Ok(more) => findings.extend(more),
                Err(fault) => findings.push(Finding::of::<()>("database", Err(fault))),
            }
        }
    }
    let well = findings.iter().all(|finding| finding.wrong.is_none());
    if args.format == OutputFormat::Json {
        let list: Vec<_> = findings
            .iter()
            .map(|one| json!({"check": one.what, "ok": one.wrong.is_none(), "problem": one.wrong, "warnings": one.warnings}))
            .collect();
        print_json(&json!({"ok": well, "checks": list}))?;
    } else {
        for finding in &findings {
            match &finding.wrong {
                None => println!("ok    {}", finding.what),
                Some(wrong) => println!("WRONG {}: {wrong}", finding.what),
            }
            for warning in &finding.warnings {
                println!("warn  {}: {warning}", finding.what);
            }
        }
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn check(context: &CommandContext, pool: &PgPool) -> Result<Vec<Finding>, Fault> {
    let issuer = context.config.issuer();
    let mut connection = pool.acquire().await?;
    let version: String =
        sqlx::query_scalar("SELECT current_setting('server_version')").fetch_one(&mut *connection).await?;
    let elsewhere = context.cluster.as_ref().and_then(|cluster| cluster.elsewhere());
    let elsewhere = elsewhere.map(|home| format!(", whose files are in {}", home.display()));
    let place = format!("{}{}", context.place(), elsewhere.unwrap_or_default());
    let mut findings =
        vec![Finding::of(format!("database: PostgreSQL {version}, schema current, {place}"), Ok(()))];
    findings.push(match server_info::find(&mut connection).await? {
        None => Finding::of(format!("issuer: {issuer}, not served yet"), Ok(())),
        Some(server) if server.issuer == issuer => Finding::of(format!("issuer: {issuer}"), Ok(())),
        Some(server) => Finding::of::<()>(
            "issuer",
            Err(Fault::new(format!(
                "the configuration says {issuer}, but the database is served as {} (on {}, by process {})",
                server.issuer, server.listen, server.pid
            ))),
        ),
    });
    let theirs: OffsetDateTime =
        sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut *connection).await?;
    let drift = (theirs - context.clock.now()).abs();
    let within = if drift <= MOST_DRIFT {
        Ok(())
    } else {
        Err(Fault::new(format!("the database's clock is {} s away from ours", drift.whole_seconds())))
    };
    findings.push(Finding::of("clock", within));
    let stored = key::store::list(&mut connection).await?;
    let opened = context.seal().and_then(|seal| {
        let active = stored.iter().filter(|key| key.state() == key::KeyState::Active);
        active.map(|key| key.open(&seal)).collect::<Result<Vec<_>, _>>()
    });
    findings.push(log(&mut connection, &stored).await?);
    let keys = if stored.is_empty() {
        "keys: none yet, made at the first start"
    } else {
        "keys: open under the master key"
    };
    findings.push(Finding::of(keys, opened));
    let settings = outbound_settings(&context.config.outbound);
    let outbound = match Outbound::configured(&context.config, context.clock.now()) {
        Ok(outbound) => {
            findings.push(Finding::of(settings, Ok(())));
            Some(outbound)
        }
        Err(fault) => {
            findings.push(Finding::of::<()>(settings, Err(fault)));
            None
        }
    };
    // A database that no server or command has written to has no rows to check.
    if key::store::find_secret(&mut connection, key::ROW_MAC).await?.is_none() {
        return Ok(findings);
    }
    let rows = match context.seal() {
        Ok(seal) => RowMac::open(&mut connection, &seal).await,
        Err(fault) => Err(fault),
    };
    let rows = match rows {
        Ok(rows) => rows,
        Err(fault) => {
            findings.push(Finding::of::<()>("rows: the key of their MACs", Err(fault)));
            return Ok(findings);
        }
    };
    let clients = client::store::list(&rows, &mut connection).await;
    let warnings = clients.as_ref().map(|all| exceptions(all)).unwrap_or_default();
    findings.push(Finding { warnings, ..Finding::of("clients: rows authentic", clients) });
    let registered = registry::store::load(&rows, &mut connection, &issuer).await;
    let issuers = registered.as_ref().map(|found| found.issuers.clone()).unwrap_or_default();
    findings.push(Finding::of("issuers and resources: rows authentic", registered));
    if let Some(outbound) = &outbound {
        // Without keys, all tokens of an issuer are introspected.
        let with_keys = issuers.iter().filter(|(_, one)| one.jwks.is_some() || one.keys_url().is_some());
        for (iss, one) in with_keys {
            findings.push(issuer_keys(outbound, iss, one).await);
            findings.extend(issuer_metadata(outbound, iss, one).await);
        }
        for one in issuers.values().filter(|one| one.introspection.is_some()) {
            findings.extend(introspection(context, outbound, one, &stored).await);
        }
        for (iss, one) in &issuers {
            let checked = check_endpoints(outbound, one).await;
            let what = format!("issuer {iss}: the endpoints for sign-ins");
            findings.extend(checked.map(|checked| Finding::of(what, checked)));
        }
    }
    findings.extend(registrars(&mut connection).await?);
    Ok(findings)
}

/// Whether an issuer answers introspections of this server.
async fn introspection(
    context: &CommandContext,
    outbound: &Outbound,
    issuer: &Issuer,
    keys: &[StoredKey],
) -> Option<Finding> {
    let introspection = issuer.introspection.as_ref()?;
    let what = format!("issuer {}: introspection at {}", issuer.iss, introspection.settings.endpoint);
    let seal = match context.seal() {
        Ok(seal) => seal,
        Err(fault) => return Some(Finding::of::<()>(what, Err(fault))),
    };
    let keyring = Keyring::open(keys, &seal).ok();
    let signer = keyring.as_ref().map(|keyring| &keyring.active);
    let by = Introspector { outbound, seal: &seal, signer };
    Some(Finding::of(what, by.probe(issuer, introspection, context.clock.now()).await))
}

/// The exceptions of clients; of many, the first ones.
fn exceptions(clients: &[Client]) -> Vec<String> {
    const MOST_SHOWN: usize = 20;
    let of = |one: &Client| {
        let id = one.client_id.clone();
        one.exceptions().into_iter().map(move |exception| format!("{id} has {}", exception.declaration()))
    };
    let mut all: Vec<String> = clients.iter().flat_map(of).collect();
    let more = all.len().saturating_sub(MOST_SHOWN);
    all.truncate(MOST_SHOWN);
    all.extend((more > 0).then(|| format!("{more} more exceptions: `actchain client show ID` lists them")));
    all
}

/// What is left to do at registrars. A registrar that fails is a warning: nothing is lost.
async fn registrars(connection: &mut PgConnection) -> Result<Vec<Finding>, Fault> {
    let finding = |backlog: registrar::store::Backlog| {
        let what =
            format!("registrar {}: {} agents to register or delete", backlog.registrar, backlog.waiting);
        let warning = backlog.failing_since.zip(backlog.last_error).map(|(since, error)| {
            format!("requests fail; the oldest agent is of {}: {error}", rfc3339(since))
        });
        Finding { warnings: warning.into_iter().collect(), ..Finding::of(what, Ok(())) }
    };
    Ok(registrar::store::backlogs(connection).await?.into_iter().map(finding).collect())
}

/// Where the server's requests can go, and who vouches for the servers there.
fn outbound_settings(config: &OutboundConfig) -> String {
    let mut settings = "outbound: public addresses".to_owned();
    if !config.allow.texts().is_empty() {
        settings = format!("{settings}, {}", config.allow.texts().join(", "));
    }
    match &config.ca_file {
        Some(path) => format!("{settings}; authorities of the system and of {}", path.display()),
        None => settings,
    }
}

/// Compares the metadata of an issuer with what was discovered, which stays in force: a difference is a warning.
async fn issuer_metadata(outbound: &Outbound, iss: &str, issuer: &Issuer) -> Option<Finding> {
    issuer.discovered.as_ref()?;
    let warnings = match differences(outbound, issuer).await {
        Ok(differing) => differing.iter().map(ToString::to_string).collect(),
        Err(failure) => vec![format!("its metadata cannot be read: {failure}")],
    };
    Some(Finding { warnings, ..Finding::of(format!("issuer {iss}: metadata"), Ok(())) })
}

/// Reads the keys of an issuer, declared or published, and names each unusable key.
async fn issuer_keys(outbound: &Outbound, iss: &str, issuer: &Issuer) -> Finding {
    let (what, set) = match (issuer.keys_url(), &issuer.jwks) {
        (Some(url), _) => {
            let fetched = outbound.get_json(url).await;
            let set =
                fetched.and_then(|body| json::parse(&body).ok_or_else(|| Fault::new("this is no JSON")));
            (format!("issuer {iss}: {url}"), set)
        }
        (None, set) => (format!("issuer {iss}: declared keys"), Ok(set.clone().unwrap_or_default())),
    };
    match set.and_then(|set| issuer.key_problems(&set)) {
        Ok(warnings) => Finding { warnings, ..Finding::of(what, Ok(())) },
        Err(fault) => Finding::of::<()>(what, Err(fault)),
    }
}

/// Verifies the audit log: a partly restored database has gaps in the log, or no keys.
async fn log(connection: &mut PgConnection, keys: &[StoredKey]) -> Result<Finding, Fault> {
    let size = store::head(connection).await?.size();
    let what = format!("audit log: {size} events");
    if size > MOST_VERIFIED {
        return Ok(Finding::of(format!("{what}; `actchain audit verify` checks them"), Ok(())));
    }
    let report = audit::verify_database(connection, &audit::TrustAnchors::default()).await?;
    let restore = "restore the backup again, into an empty database";
    Ok(match report.integrity_error {
        Some(integrity_error) => Finding::of::<()>(
            what,
            Err(Fault::new(format!(
                "the log is broken at event {}: if this database was restored, {restore}",
                integrity_error.seq
            ))),
        ),
        None if keys.is_empty() && report.checkpoints > 0 => Finding::of::<()>(
            what,
            Err(Fault::new(format!(
                "checkpoints were signed, but there is no signing key any more: {restore}"
            ))),
        ),
        None => Finding::of(format!("{what}, whole"), Ok(())),
    })
}
